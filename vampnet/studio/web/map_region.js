// The region: the part of the clip that alone is made anew, dragged over the waveform or moved by its two handles.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const DRAG = 6; // pixels after which a press is a drag

  // strip: the element over the waveform; map: the token map; commit(value): tells the server [start, end] in seconds or null.
  studio.regionStrip = (strip, clear, map, commit) => {
    const handles = [...strip.querySelectorAll(".vs-handle")];
    const region = { value: null, take, place };
    let drag = null; // {pointer, from (seconds), x, moved, handle}; of one finger, whatever others do
    const drags = (event) => drag?.pointer === event.pointerId;

    const length = () => map.data.inner[1] - map.data.inner[0];
    const bounded = (time) => Math.min(length(), Math.max(0, time));
    // A clip that whole bars have cut may end before the region does.
    const ends = () => (region.value ? region.value.map(bounded) : [0, length()]);

    function timeAt(event) {
      const box = strip.getBoundingClientRect();
      return bounded(((event.clientX - box.left) / box.width) * map.data.seconds - map.data.inner[0]);
    }

    function take(value) {
      region.value = value;
      map.draw();
      place();
    }

    function set(start, end) {
      let [a, b] = [Math.min(start, end), Math.max(start, end)];
      // At least a time step of the codec.
      if (b - a < map.data.step) [a, b] = [Math.max(0, Math.min(a, length() - map.data.step)), Math.min(length(), a + map.data.step)];
      take(a <= 0.0005 && b >= length() - 0.0005 ? null : [a, b].map((time) => Math.round(time * 1000) / 1000));
    }

    function place() {
      clear.disabled = !region.value;
      if (!map.data || !map.at) return;
      const { left, room, waveTop, waveHeight } = map.at;
      Object.assign(strip.style, { left: `${left}px`, width: `${room}px`, top: `${waveTop}px`, height: `${waveHeight}px` });
      ends().forEach((time, i) => {
        const handle = handles[i];
        handle.style.left = `${(100 * (map.data.inner[0] + time)) / map.data.seconds}%`;
        handle.setAttribute("aria-valuemin", "0");
        handle.setAttribute("aria-valuemax", length().toFixed(3));
        handle.setAttribute("aria-valuenow", time.toFixed(3));
        handle.setAttribute("aria-valuetext", `${time.toFixed(2)}${studio.say("map.second")}`);
      });
      strip.classList.toggle("vs-chosen", Boolean(region.value));
      const [start, end] = ends().map((time) => time.toFixed(2));
      if (region.value) map.words.textContent = studio.say("map.region.words", { start, end });
      else if (map.words.dataset.region) map.words.textContent = "";
      map.words.dataset.region = region.value ? "1" : "";
    }

    strip.addEventListener("pointerdown", (event) => {
      if (!map.data || event.button > 0 || drag) return;
      const handle = handles.indexOf(event.target);
      drag = { pointer: event.pointerId, from: timeAt(event), x: event.clientX, moved: handle >= 0, handle, before: region.value };
      strip.setPointerCapture(event.pointerId);
    });
    strip.addEventListener("pointermove", (event) => {
      if (!drags(event)) return;
      drag.moved = drag.moved || Math.abs(event.clientX - drag.x) > DRAG;
      if (!drag.moved) return;
      if (drag.handle < 0) set(drag.from, timeAt(event));
      else set(...(drag.handle ? [Math.min(ends()[0], timeAt(event)), timeAt(event)] : [timeAt(event), Math.max(ends()[1], timeAt(event))]));
    });
    strip.addEventListener("pointerup", (event) => {
      if (!drags(event)) return;
      const { moved, handle } = drag;
      drag = null;
      if (moved) commit(region.value);
      else if (handle < 0) map.playFrom(timeAt(event) + map.data.inner[0]);
    });
    // A finger that turns out to scroll.
    strip.addEventListener("pointercancel", (event) => {
      if (!drags(event)) return;
      take(drag.before);
      drag = null;
    });

    handles.forEach((handle, i) => {
      handle.addEventListener("keydown", (event) => {
        if (!map.data) return;
        const sign = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
        const edge = { Home: 0, End: length() }[event.key];
        if (event.key === "Escape" || event.key === "Delete") set(0, length());
        else if (sign || edge !== undefined) {
          // A time step, or with Shift a beat.
          const by = event.shiftKey ? (map.data.tempo ? 60 / map.data.tempo : 0.5) : map.data.step;
          const now = ends();
          now[i] = edge !== undefined ? edge : bounded(now[i] + sign * by);
          if (now[1] - now[0] < map.data.step) return void event.preventDefault();
          set(...now);
        } else return;
        event.preventDefault();
        event.stopPropagation();
        commit(region.value);
      });
    });
    clear.addEventListener("click", () => {
      set(0, length());
      commit(null);
    });
    return region;
  };
})();
