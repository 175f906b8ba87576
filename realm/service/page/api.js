// The HTTP API, as this page uses it.

const TOKEN = "realm-token";

/** What the service said instead of an answer. */
export class Refused extends Error {
  constructor(status, code, message, request, wait) {
    super(message);
    Object.assign(this, { status, code, request, wait });
  }
}

/** The token is kept for this tab alone and goes with it. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

/** version: of the document that an edit is meant for; another's is refused with 412. */
async function call(method, path, body, signal, version) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (version !== undefined) headers["If-Match"] = `"${version}"`;
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "unreachable", "", null, null);
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const said = await response.json().catch(() => null);
  const { code = String(response.status), message = response.statusText, request_id = null } = said?.error ?? {};
  throw new Refused(response.status, code, message, request_id, response.headers.get("Retry-After"));
}

const place = (id) => `v1/documents/${encodeURIComponent(id)}`;

export const api = {
  knowledgeBase: () => call("GET", "v1/knowledge-base"),
  model: () => call("GET", "v1/model"),
  ask: (request, signal) => call("POST", "v1/ask", request, signal),
  documents: (parameters) => call("GET", `v1/documents?${new URLSearchParams(parameters)}`),
  document: (id) => call("GET", place(id)),
  create: (value) => call("POST", "v1/documents", value),
  update: (id, value, version) => call("PUT", place(id), value, undefined, version),
  remove: (id, version) => call("DELETE", place(id), undefined, undefined, version),
  history: (id, before) => call("GET", `${place(id)}/history${before ? `?before=${before}` : ""}`),
  restore: (id, version) => call("POST", `${place(id)}/restore`, { as_of: version }),
};
