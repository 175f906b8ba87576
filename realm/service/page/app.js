// The frame: which view is shown, how the documents stand, and what went wrong.

import { api, Refused, token } from "./api.js";
import { askView } from "./ask.js";
import { documentsView, documentView, newDocumentView } from "./documents.js";
import { field, h, show } from "./dom.js";
import { modelView } from "./model.js";
import { count, say, switchLanguage, wordTheFrame } from "./words.js";

const main = document.getElementById("main");
const told = document.getElementById("told");

/** What every view is given. */
const app = { knowledgeBase: null, refresh, fail, tell };

/** Look how the documents stand now. */
async function refresh() {
  app.knowledgeBase = await api.knowledgeBase();
  const { documents, passages, version } = app.knowledgeBase;
  document.getElementById("standing").textContent = say("documentsCount", {
    documents: count(documents),
    passages: count(passages),
    version,
  });
  return app.knowledgeBase;
}

/** Say something that passes. */
function tell(message, kind = "good") {
  show(told, h("p", { class: `toast ${kind}` }, message));
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => show(told), kind === "bad" ? 12000 : 6000);
}

/** Say what went wrong; ask for a token where that is what is missing. */
function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) return askForToken();
  const message =
    error.status === 0
      ? say("unreachable")
      : error.code === "busy" && error.wait
        ? say("busy", { wait: error.wait })
        : `${say("failed")}: ${error.message}${error.request ? ` (${say("request", { id: error.request })})` : ""}`;
  tell(message, "bad");
}

function askForToken() {
  const input = h("input", { type: "password", autocomplete: "off", required: true });
  const form = h(
    "form",
    {
      class: "card stack",
      onsubmit: (event) => {
        event.preventDefault();
        token.set(input.value.trim());
        route();
      },
    },
    field(say("token"), input, say("tokenHint")),
    h("button", { type: "submit" }, say("enter")),
  );
  show(main, form);
  input.focus();
}

/** The id in an address; as it stands where it is no encoding of any. */
function decoded(id) {
  try {
    return decodeURIComponent(id);
  } catch {
    return id;
  }
}

/** #/ asks, #/documents lists, #/documents/ID shows one, #/new makes one, #/model tells of the model. */
async function route() {
  const path = location.hash.slice(1) || "/";
  for (const link of document.querySelectorAll(".top nav a")) {
    const here = link.hash.slice(1);
    const current = here === "/" ? path === "/" : path.startsWith(here) || (here === "/documents" && path === "/new");
    link.toggleAttribute("aria-current", current);
    if (current) link.setAttribute("aria-current", "page");
  }
  show(told);
  try {
    await refresh();
    const id = path.startsWith("/documents/") ? decoded(path.slice("/documents/".length)) : null;
    const view =
      path === "/new"
        ? newDocumentView(app)
        : id
          ? await documentView(app, id)
          : path.startsWith("/documents")
            ? await documentsView(app)
            : path === "/model"
              ? await modelView()
              : askView(app);
    show(main, view);
    document.title = `${main.querySelector("h1")?.textContent ?? say("ask")} · realm`;
  } catch (error) {
    fail(error);
  }
}

document.getElementById("language").addEventListener("click", () => {
  switchLanguage();
  route();
});
window.addEventListener("hashchange", () => {
  route();
  main.focus();
});
wordTheFrame();
route();
