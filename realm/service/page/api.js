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

async function call(method, path, body, signal) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
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
  ask: (request, signal) => call("POST", "v1/ask", request, signal),
  documents: (parameters) => call("GET", `v1/documents?${new URLSearchParams(parameters)}`),
  document: (id) => call("GET", place(id)),
  create: (value) => call("POST", "v1/documents", value),
  update: (id, value) => call("PUT", place(id), value),
  remove: (id) => call("DELETE", place(id)),
  history: (id, before) => call("GET", `${place(id)}/history${before ? `?before=${before}` : ""}`),
  restore: (id, version) => call("POST", `${place(id)}/restore`, { as_of: version }),
};
