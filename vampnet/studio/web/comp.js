// The grid of a comp: a column for each part of the clip, a row for each take. Arrow keys go about in it.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const say = (key, values) => studio.say(`comp.${key}`, values);
  let open = null; // of the grid on this page; the deck's button is put there once

  const make = (...given) => studio.element(...given);

  const nameOf = (number) => (number ? say("take", { number }) : say("source"));

  studio.comp = (element, props, watch, trigger) => {
    const root = element.querySelector(".vs-comp");
    let grid = null; // {vamp, rows, times, kind, loop}
    let choice = [];
    let cells = []; // by part, then by row
    let line = null;

    function paint() {
      cells.forEach((column, part) =>
        column.forEach((cell, row) => {
          const on = choice[part] === grid.rows[row];
          cell.setAttribute("aria-checked", String(on));
          cell.tabIndex = on ? 0 : -1;
        })
      );
      const seam = grid.loop && choice[0] !== choice[choice.length - 1];
      const joins = choice.slice(1).filter((take, i) => take !== choice[i]).length + seam;
      line.textContent = joins ? say(joins === 1 ? "joins.one" : "joins", { count: joins }) : say("joins.none");
    }

    function choose(part, row, focus = true) {
      choice[part] = grid.rows[row];
      paint();
      if (focus) cells[part][row].focus();
    }

    // Up and down choose another take, as in a group of radio buttons; left and right go to the part beside.
    function press(event, part, row) {
      const { rows } = grid;
      const parts = cells.length;
      const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
      if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      if (step[1]) choose(part, (row + step[1] + rows.length) % rows.length);
      else {
        const next = (part + step[0] + parts) % parts;
        cells[next][rows.indexOf(choice[next])].focus();
      }
    }

    function column(part) {
      const name = say(grid.kind, { number: part + 1 });
      const box = make("div", { className: "vs-comp-part" }, make("span", { className: "vs-comp-head", text: String(part + 1), title: name, ariaHidden: "true" }));
      box.setAttribute("role", "radiogroup");
      box.setAttribute("aria-label", name);
      // As wide as the part is long, so that the grid is the clip.
      box.style.flexGrow = String(grid.times[part + 1] - grid.times[part]);
      cells[part] = grid.rows.map((number, row) => {
        const cell = make("button", { type: "button", title: say("cell", { part: name, name: nameOf(number) }) });
        cell.setAttribute("role", "radio");
        cell.setAttribute("aria-label", nameOf(number));
        cell.addEventListener("click", () => choose(part, row));
        cell.addEventListener("keydown", (event) => press(event, part, row));
        return cell;
      });
      box.append(...cells[part]);
      return box;
    }

    function show() {
      const given = props.value;
      const before = grid;
      grid = given;
      root.replaceChildren();
      if (!grid) return;
      const parts = grid.times.length - 1;
      if (!before || before.vamp !== grid.vamp || choice.length !== parts) choice = Array(parts).fill(grid.rows[1] ?? 0);
      cells = [];
      line = make("span", { className: "vs-aside" });
      line.setAttribute("role", "status");
      const names = make("div", { className: "vs-comp-names" }, make("span", { className: "vs-comp-head" }));
      grid.rows.forEach((number) => {
        const row = make("button", { type: "button", className: "vs-comp-name", text: nameOf(number), title: say("row", { name: nameOf(number) }) });
        row.setAttribute("aria-label", say("row", { name: nameOf(number) }));
        row.addEventListener("click", () => {
          choice = choice.map(() => number);
          paint();
        });
        names.append(row);
      });
      const table = make("div", { className: "vs-comp-grid" }, names);
      for (let part = 0; part < parts; part++) table.append(column(part));
      const go = make("button", { type: "button", className: "vs-play vs-comp-make", text: say("make") });
      go.addEventListener("click", () => trigger("submit", { vamp: grid.vamp, choice }));
      const close = make("button", { type: "button", className: "vs-flat", text: say("close") });
      close.addEventListener("click", () => trigger("select", { vamp: null }));
      const box = make("section", { className: "vs-comp-box" }, make("h2", { text: say("name") }), make("p", { className: "vs-aside", text: say("lead") }),
        table, make("div", { className: "vs-rec-row" }, go, line, close));
      box.setAttribute("aria-label", say("name"));
      root.append(box);
      paint();
      if (!before || before.vamp !== grid.vamp) cells[0][grid.rows.indexOf(choice[0])].focus();
    }

    watch("value", show);
    show();
    const first = open === null;
    open = (vamp) => trigger("select", { vamp: vamp.id });
    if (first && studio.deck) {
      studio.deck.addVampAction({ name: "comp", source: true, label: say("open"), title: say("open.hint"), run: (vamp) => open(vamp) });
    }
  };
})();
