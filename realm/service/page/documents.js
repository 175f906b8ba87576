// The documents: a list, one of them with its history, and a form that changes it.

import { api, Refused } from "./api.js";
import { field, h, show } from "./dom.js";
import { count, say, when } from "./words.js";

const PAGE = 25;
const DETAILS = ["source", "date", "lang", "url"];
const CHANGES = { added: "added", updated: "updated", deleted: "removed" };

/** Which part of the list is looked at, kept while the page is open. */
const listed = { where: "", cursors: [null] };

export async function documentsView(app) {
  const place = h("section", { class: "stack" });
  const where = h("input", { type: "text", spellcheck: "false", autocapitalize: "off" });
  where.value = listed.where;
  const ofPassages = ["text", "number"];
  const fields = Object.keys(app.knowledgeBase.columns ?? {}).filter((name) => !ofPassages.includes(name)).join(", ");

  /** Show the page that begins at the last of `cursors`; one for each page that led here. */
  async function load(cursors) {
    const cursor = cursors.at(-1);
    try {
      const found = await api.documents({
        limit: PAGE,
        ...(listed.where && { where: listed.where }),
        ...(cursor && { cursor }),
      });
      listed.cursors = cursors;
      show(place, documentTable(found.documents), pages(found, cursors, load));
    } catch (error) {
      app.fail(error);
    }
  }

  const form = h(
    "form",
    {
      class: "row wrap",
      onsubmit: (event) => {
        event.preventDefault();
        listed.where = where.value.trim();
        load([null]);
      },
    },
    field(say("where"), where, say("whereHint", { fields })),
    h("button", { type: "submit" }, say("filter")),
  );
  await load(listed.cursors);
  return h(
    "div",
    { class: "stack" },
    h(
      "div",
      { class: "row wrap" },
      h("h1", {}, say("documents")),
      h("a", { class: "button", href: "#/new" }, say("newDocument")),
    ),
    form,
    place,
  );
}

function documentTable(documents) {
  if (!documents.length) return h("p", { class: "soft" }, say("none"));
  return h(
    "ul",
    { class: "list" },
    documents.map((one) =>
      h(
        "li",
        {},
        h("a", { href: `#/documents/${encodeURIComponent(one.id)}` }, one.title || one.id),
        h("span", { class: "soft small" }, [one.source, one.date].filter(Boolean).join(" · ")),
        h("p", { class: "soft small clip" }, [...one.text].slice(0, 240).join("")),
      ),
    ),
  );
}

function pages(found, cursors, load) {
  const from = (cursors.length - 1) * PAGE;
  const to = from + found.documents.length;
  const button = (key, on, next) =>
    h("button", { type: "button", class: "plain", disabled: !on, onclick: () => load(next()) }, say(key));
  return h(
    "div",
    { class: "row wrap" },
    button("previous", cursors.length > 1, () => cursors.slice(0, -1)),
    h(
      "span",
      { class: "soft small", role: "status" },
      say("range", { from: count(Math.min(from + 1, to)), to: count(to), total: count(found.total) }),
    ),
    button("next", found.cursor, () => [...cursors, found.cursor]),
  );
}

export function newDocumentView(app) {
  const form = documentForm({ id: "", title: "", text: "" }, true, async (value, id) => {
    const { version } = await api.create({ id, ...value });
    location.hash = `#/documents/${encodeURIComponent(id)}`;
    app.tell(say("saved", { version }));
  });
  form.addEventListener("failed", (event) => app.fail(event.detail));
  return h("div", { class: "stack" }, h("h1", {}, say("newDocument")), form);
}

/** A document that is there; or, where it was deleted, its history alone. */
export async function documentView(app, id) {
  const missing = (error) => {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  };
  const [shown, newest] = await Promise.all([
    api.document(id).catch(missing),
    api.history(id).then((all) => all, (error) => missing(error) ?? { changes: [], before: null }),
  ]);
  const found = shown?.document ?? null;
  const view = h("div", { class: "stack" });
  const again = async () => {
    await app.refresh();
    view.replaceWith(await documentView(app, id));
  };
  const act = (action) => async () => {
    try {
      app.tell(await action());
      await again();
    } catch (error) {
      if (!changedMeanwhile(error)) return app.fail(error);
      await again().catch(app.fail);
      app.tell(say("changedMeanwhile"), "bad");
    }
  };

  if (!found && !newest.changes.length) {
    show(view, h("h1", {}, id), h("p", {}, say("notThere", { id })));
    return view;
  }
  const edit = () => {
    if (!givesBack(found.metadata, app.knowledgeBase.columns)) return app.tell(say("largeNumber"), "bad");
    let known = shown.document_version;
    const conflict = h("div", { class: "conflict", role: "alert" });
    const form = documentForm(found, false, async (value) => {
      const { unchanged, version } =
        known === null ? await api.create({ id, ...value }) : await api.update(id, value, known);
      app.tell(unchanged ? say("unchanged") : say("saved", { version }));
      await again();
    });
    const cancel = () => form.dispatchEvent(new CustomEvent("cancelled"));
    const all = (version) => {
      known = version;
      show(conflict);
      form.requestSubmit();
    };
    form.addEventListener("failed", async ({ detail: error }) => {
      if (!changedMeanwhile(error)) return app.fail(error);
      try {
        show(conflict, conflictPart(await api.document(id).catch(missing), all, cancel));
        conflict.scrollIntoView({ block: "nearest" });
      } catch (failure) {
        app.fail(failure);
      }
    });
    form.addEventListener("cancelled", again);
    body.replaceWith(conflict, form);
    form.querySelector("textarea").focus();
  };
  const remove = act(async () => {
    if (!confirm(say("deleteSure", { id }))) throw new DOMException("", "AbortError");
    return say("deleted", await api.remove(id, shown.document_version));
  });
  const body = found
    ? h(
        "article",
        { class: "card stack" },
        h("p", { class: "whole" }, found.text),
        h(
          "div",
          { class: "row wrap" },
          h("button", { type: "button", onclick: edit }, say("edit")),
          h("button", { type: "button", class: "plain bad", onclick: remove }, say("delete")),
        ),
      )
    : h("p", { class: "card note" }, say("notThere", { id }));
  const restore = (version) =>
    act(async () => {
      return say("restored", await api.restore(id, version));
    });
  show(
    view,
    h("h1", {}, found?.title || id),
    h("p", { class: "soft small" }, facts(found, id)),
    body,
    h("h2", {}, say("history")),
    historyPart(app, id, newest, restore),
  );
  return view;
}

/** Whether somebody else changed the document since it was read here. */
const changedMeanwhile = (error) => error instanceof Refused && error.status === 412;

/** What somebody else made of the document meanwhile, and the choice: both are kept in its history. */
function conflictPart(theirs, all, cancel) {
  const told = theirs ? say("changedMeanwhile") : say("deletedMeanwhile");
  const button = (key, act) => h("button", { type: "button", class: "plain", onclick: act }, say(key));
  return h(
    "div",
    { class: "card note stack" },
    h("p", {}, h("b", {}, told), " ", say("nothingSaved")),
    theirs ? h("p", { class: "soft small" }, `${say("version", { version: theirs.document_version })} · ${when(theirs.time)}`) : null,
    theirs ? h("p", { class: "whole" }, theirs.document.text) : null,
    h(
      "div",
      { class: "row wrap" },
      button("saveMine", () => all(theirs ? theirs.document_version : null)),
      button("takeTheirs", cancel),
    ),
  );
}

/** The changes, newest first; older ones are fetched when they are asked for. */
function historyPart(app, id, newest, restore) {
  const list = h("ol", { class: "history" });
  const older = h("button", { type: "button", class: "plain" }, say("older"));
  let before = null;
  const add = (page) => {
    const present = !list.children.length;
    list.append(...[...page.changes].reverse().map((one, number) => revisionItem(one, present && number === 0, restore)));
    before = page.before;
    older.hidden = before === null;
  };
  older.addEventListener("click", () => api.history(id, before).then(add).catch(app.fail));
  add(newest);
  return h("section", { class: "stack" }, list, older);
}

function facts(found, id) {
  const known = DETAILS.filter((name) => name !== "url").map((name) => found?.[name]);
  const parts = [id, ...known].filter(Boolean).join(" · ");
  const link = found?.url && /^https?:/.test(found.url);
  return [parts, link ? [" · ", h("a", { href: found.url, rel: "noopener noreferrer" }, found.url)] : null].flat();
}

function revisionItem(one, present, restore) {
  const gone = one.change === "deleted";
  return h(
    "li",
    { class: "card" },
    h(
      "div",
      { class: "row wrap" },
      h("b", {}, say("version", { version: one.version })),
      h("span", { class: "soft small" }, `${say(CHANGES[one.change] ?? "updated")} · ${when(one.time)}`),
      present || gone
        ? null
        : h("button", { type: "button", class: "plain small", onclick: restore(one.version) }, say("restore")),
    ),
    one.fields.map(({ name, old, new: now }) =>
      h("p", { class: "small" }, `${name}: ${old ?? "–"} → ${now ?? "–"}`),
    ),
    one.same_as === null ? null : h("p", { class: "soft small" }, say("sameAs", { version: one.same_as })),
    one.change === "updated" && one.difference.some(([kind]) => kind !== "same")
      ? h("p", { class: "whole small" }, pieces(one.difference))
      : null,
  );
}

const AROUND = 120;

/** Words removed and added between what stayed; long unchanged stretches are shortened. */
function pieces(difference) {
  return difference.map(([kind, text], number) => {
    if (kind === "removed") return h("del", {}, text);
    if (kind === "added") return h("ins", {}, text);
    const points = [...text];
    if (points.length <= 2 * AROUND) return text;
    const head = number === 0 ? "" : points.slice(0, AROUND).join("");
    const tail = number === difference.length - 1 ? "" : points.slice(-AROUND).join("");
    return `${head} … ${tail}`;
  });
}

/** Fill an input. Gives what it holds then: the very value while nobody changed it, since a browser tidies line ends. */
function holding(input, value, read) {
  input.value = value ?? "";
  const shown = input.value;
  return () => (input.value === shown ? (value ?? null) : read(input.value));
}

/** Whether a browser can give back every number of a document: it has room for 53 bits, the service for 64. */
function givesBack(metadata, columns) {
  return Object.entries(metadata).every(([name, value]) => columns[name] !== "int64" || Number.isSafeInteger(value));
}

/** A form that sends what it holds; says "failed" with the error, and "cancelled". */
function documentForm(value, fresh, save) {
  const id = h("input", { type: "text", required: true, disabled: !fresh, spellcheck: "false" });
  const title = h("input", { type: "text" });
  const text = h("textarea", { rows: 14, required: true });
  id.value = value.id;
  const types = { date: "date", url: "url" };
  const details = Object.fromEntries(DETAILS.map((name) => [name, h("input", { type: types[name] ?? "text" })]));
  const held = {
    title: holding(title, value.title, (now) => now),
    text: holding(text, value.text, (now) => now),
    ...Object.fromEntries(DETAILS.map((name) => [name, holding(details[name], value[name], (now) => now.trim() || null)])),
  };
  const send = h("button", { type: "submit" }, say("save"));
  const form = h(
    "form",
    {
      class: "card stack",
      onsubmit: async (event) => {
        event.preventDefault();
        send.disabled = true;
        const given = Object.fromEntries(Object.entries(held).map(([name, read]) => [name, read()]));
        try {
          await save({ ...given, ...(value.metadata && { metadata: value.metadata }) }, id.value.trim());
        } catch (error) {
          send.disabled = false;
          form.dispatchEvent(new CustomEvent("failed", { detail: error }));
        }
      },
    },
    fresh ? field(say("identity"), id) : null,
    field(say("title"), title),
    field(say("text"), text),
    h(
      "div",
      { class: "grid" },
      field(say("source"), details.source),
      field(say("date"), details.date),
      field(say("languageOf"), details.lang),
      field(say("url"), details.url),
    ),
    h(
      "div",
      { class: "row wrap" },
      send,
      fresh
        ? null
        : h(
            "button",
            { type: "button", class: "plain", onclick: () => form.dispatchEvent(new CustomEvent("cancelled")) },
            say("cancel"),
          ),
    ),
  );
  return form;
}
