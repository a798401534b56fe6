// The dialog that shares a vamp by link, and the list of what one has shared. Built as elements, never as markup.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const say = (key, values) => studio.say(`share.${key}`, values);

  function make(tag, className, text, attributes = {}) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  function button(className, text, run, attributes = {}) {
    const element = make("button", className, text, { type: "button", ...attributes });
    element.addEventListener("click", run);
    return element;
  }

  // The owner's cookie, which scripts cannot read: it comes with an answer of the server.
  let owner = null;
  const introduce = () => (owner = owner || fetch("v/owner", { method: "POST", headers: { "X-VampNet": "1" } }).catch(() => (owner = null)));

  const linkOf = (id, ending = "") => new URL(`v/${id}${ending}`, location.href).href;

  // The name that is read aloud says what is seen.
  function tell(press, text, name) {
    press.textContent = text;
    press.setAttribute("aria-label", name);
  }

  async function copy(field, press, name) {
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      document.execCommand("copy"); // where a page without https may not use the clipboard
    }
    tell(press, say("dialog.copied"), `${say("dialog.copied")}: ${name}`);
    setTimeout(() => tell(press, say("dialog.copy"), `${say("dialog.copy")}: ${name}`), 2000);
  }

  // A line that can be copied.
  function line(name, text, extra = []) {
    const row = make("div", "vs-share-line");
    const label = make("label", "", name);
    const field = make("input", "", "", { readonly: "", type: "text" });
    field.value = text;
    label.append(field);
    const press = button("vs-flat", say("dialog.copy"), () => copy(field, press, name), { "aria-label": `${say("dialog.copy")}: ${name}` });
    field.addEventListener("focus", () => field.select());
    row.append(label, press, ...extra);
    return row;
  }

  function field(tag, name, longest, value, attributes = {}) {
    const label = make("label", "vs-share-field", name);
    const input = make(tag, "", "", { maxlength: longest, ...attributes });
    input.value = value;
    label.append(input);
    return { label, input };
  }

  studio.share = (element, props, watch, trigger) => {
    const dialog = make("dialog", "vs-dialog", "", { "aria-label": say("dialog") });
    const body = make("div", "vs-share-body");
    const problem = make("p", "vs-notice vs-error", "", { role: "alert" });
    const mine = make("section", "vs-share-mine");
    const close = button("vs-flat", say("dialog.close"), () => dialog.close());
    dialog.append(make("h2", "", say("dialog")), body, problem, mine, close);
    // A click beside it closes it, as Esc does.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    element.append(dialog);
    let linked = null; // the id of what the dialog shows a link of

    function ask({ vamp, title, parent, longest }) {
      linked = null;
      const form = make("form", "vs-share-form", "", { method: "dialog" });
      const name = field("input", say("dialog.title"), longest[0], title, { type: "text", autocomplete: "off" });
      const note = field("textarea", say("dialog.note"), longest[1], "", { rows: 2 });
      const check = make("label", "vs-share-check", "", { title: say("dialog.private.hint") });
      const secret = make("input", "", "", { type: "checkbox" });
      const hint = make("span", "vs-aside", say("dialog.private.hint"));
      check.append(secret, make("span", "", say("dialog.private")));
      const whence = make("p", "vs-aside", say("dialog.parent"));
      whence.hidden = !parent;
      secret.addEventListener("change", () => (whence.hidden = !parent || secret.checked));
      const go = make("button", "vs-share-go", say("dialog.do"), { type: "submit" });
      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        go.disabled = true;
        go.textContent = say("dialog.busy");
        problem.textContent = "";
        await introduce();
        trigger("select", { action: "share", vamp, title: name.input.value, note: note.input.value, private: secret.checked });
      });
      form.append(make("p", "vs-aside", say("dialog.about")), name.label, note.label, check, hint, whence, go);
      body.replaceChildren(form);
      name.input.focus();
      name.input.select();
    }

    function done({ id, secret, title, known }) {
      linked = id;
      const open = make("a", "vs-flat", say("dialog.open"), { href: linkOf(id), target: "_blank", rel: "noopener" });
      const frame = make("iframe", "", "", {
        src: linkOf(id, "/embed"), width: 640, height: 560, title: title || say("untitled"), loading: "lazy", style: "border:0",
        allow: "autoplay",
      });
      const key = line(say("dialog.delete"), `${linkOf(id, "/delete")}#${secret}`);
      key.title = say("dialog.delete.hint");
      const list = make("div", "vs-share-done");
      const link = line(say("dialog.link"), linkOf(id), [open]);
      list.append(make("p", "vs-notice", say("dialog.done"), { role: "status" }), link, line(say("dialog.embed"), frame.outerHTML), key);
      // Where the browser keeps no cookie, as in a frame of another site, nothing else tells that it is theirs.
      if (!known) list.append(make("p", "vs-share-keep", say("dialog.stranger"), { role: "note" }));
      body.replaceChildren(list);
      link.querySelector("input").focus();
    }

    // Asks once more before it deletes.
    function remove(id, title) {
      const label = say("mine.delete.label", { title });
      const press = button("vs-flat", say("mine.delete"), () => {
        if (press.dataset.sure) {
          press.disabled = true;
          trigger("select", { action: "delete", id });
          return;
        }
        press.dataset.sure = "yes";
        tell(press, say("mine.sure"), `${say("mine.sure")} ${label}`);
        setTimeout(() => {
          delete press.dataset.sure;
          tell(press, say("mine.delete"), label);
        }, 4000);
      }, { "aria-label": label });
      return press;
    }

    function list(shared) {
      const rows = shared.map(({ id, title, created }) => {
        const row = make("li");
        const name = title || say("untitled");
        const day = new Date(created * 1000).toLocaleDateString(studio.language);
        const link = make("a", "vs-link", name, { href: linkOf(id), target: "_blank", rel: "noopener" });
        row.append(link, make("span", "vs-aside", day), remove(id, name));
        return row;
      });
      const all = make("ul");
      all.append(...rows);
      mine.replaceChildren(make("h3", "", say("mine")), rows.length ? all : make("p", "vs-aside", say("mine.none")));
    }

    function show() {
      const value = props.value || {};
      if (!value.stage) return;
      introduce();
      list(value.mine || []);
      problem.textContent = value.problem || "";
      if (value.stage === "ask") ask(value);
      else if (value.stage === "done") done(value);
      else if (value.stage === "sorry") body.replaceChildren();
      else if (value.stage === "list" && linked && !(value.mine || []).some(({ id }) => id === linked)) {
        linked = null;
        body.replaceChildren();
        close.focus();
      }
      else if (value.stage === "again") {
        const go = body.querySelector(".vs-share-go");
        if (go) {
          go.disabled = false;
          go.textContent = say("dialog.do");
        }
      }
      if (!dialog.open) dialog.showModal();
    }

    studio.deck.addVampAction({
      name: "share", label: say("action"), title: say("action.hint"), run: (vamp) => studio.deck.fire("share", { vamp: vamp.id }),
    });
    watch("value", show);
  };
})();
