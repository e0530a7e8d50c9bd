// The two canvases: all of the time above, the part in view below, one lane a hazard. Draws `state`, tells `on`.
function makeTracks(data, state, lanes, overview, on) {
  const INK = "#1b2733", MUTED = "#4a5863", RULE = "#d9dfe4", GREY = "#5f6b75", BLIND = "#b4bec7";
  const FONT = getComputedStyle(document.body).fontFamily;
  const AXIS_PX = 24, MAX_LANES = 10, LEAST_VIEW_SECONDS = Math.min(2, data.duration_seconds);
  const STEPS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  const NORMAL = "Normal footage";
  let shown = [], laneHeight = 60, barHeight = 14, grabbed = null;

  const peaks = Object.fromEntries(data.hazards.map((label) => [label, (data.scores[label] || []).reduce((most, value) => Math.max(most, value ?? 0), 0)]));
  const isHazard = (label) => data.hazards.includes(label);
  const laneOf = (item) => shown.indexOf(isHazard(item.label) && !Review.isNormal(item) ? item.label : NORMAL);
  const width = () => lanes.clientWidth;
  const left = () => width() >= 640 ? 148 : 0; // names stand beside the lanes where there is room, else on them
  const toX = (seconds) => left() + (seconds - state.view[0]) / (state.view[1] - state.view[0]) * (width() - left());
  const toSeconds = (x) => state.view[0] + (x - left()) / (width() - left()) * (state.view[1] - state.view[0]);
  const heightOf = (index) => shown[index] === NORMAL ? 40 : laneHeight; // the last one, without scores
  const topOf = (index) => index * laneHeight - (index > 0 && shown[index - 1] === NORMAL ? laneHeight - 40 : 0);
  const colourOf = (item) => Review.isNormal(item) ? GREY : data.colours[item.label] || GREY;

  function choose() {
    const used = new Set(state.items.map((item) => item.label));
    const order = [...data.hazards].sort((one, two) => used.has(two) - used.has(one) || peaks[two] - peaks[one]);
    const kept = new Set(data.hazards.filter((label) => used.has(label)).concat(order.slice(0, MAX_LANES)));
    shown = data.hazards.length > MAX_LANES ? data.hazards.filter((label) => kept.has(label)) : [...data.hazards];
    if (state.items.some((item) => Review.isNormal(item) || !isHazard(item.label))) shown.push(NORMAL);
    laneHeight = shown.length <= 4 ? 58 : shown.length <= 7 ? 48 : 40;
    barHeight = laneHeight < 48 ? 11 : 14;
    lanes.style.height = `${Math.max(laneHeight, topOf(shown.length)) + AXIS_PX}px`;
  }

  function ready(canvas) {
    const sharp = window.devicePixelRatio || 1, wide = canvas.clientWidth, high = canvas.clientHeight;
    if (canvas.width !== Math.round(wide * sharp) || canvas.height !== Math.round(high * sharp)) {
      canvas.width = Math.round(wide * sharp);
      canvas.height = Math.round(high * sharp);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, wide, high);
    return pen;
  }

  const firstAfter = (seconds) => {
    let low = 0, high = data.times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (data.times[middle] < seconds) low = middle + 1; else high = middle;
    }
    return low;
  };

  // Highest score in each pixel column, so that no peak is lost however far one zooms out.
  function curve(label) {
    const values = data.scores[label] || [], points = [];
    const from = Math.max(0, firstAfter(state.view[0]) - 1), to = Math.min(values.length, firstAfter(state.view[1]) + 1);
    for (let index = from; index < to; index += 1) {
      const x = toX(data.times[index]), value = values[index], last = points.at(-1);
      if (last && value !== null && last[1] !== null && x - last[0] < 1) last[1] = Math.max(last[1], value / 1000);
      else points.push([x, value === null ? null : value / 1000]);
    }
    return points;
  }

  function drawScores(pen, label, top) {
    const floor = top + laneHeight - barHeight - 5, high = laneHeight - barHeight - (left() ? 10 : 13), y = (value) => floor - value * high;
    const colour = data.colours[label];
    let run = [];
    const flush = () => {
      if (run.length === 1) run.push([run[0][0] + 2, run[0][1]]);
      if (run.length) {
        pen.beginPath();
        pen.moveTo(run[0][0], floor);
        run.forEach(([x, value]) => pen.lineTo(x, y(value)));
        pen.lineTo(run.at(-1)[0], floor);
        pen.globalAlpha = 0.2; pen.fillStyle = colour; pen.fill(); pen.globalAlpha = 1;
        pen.beginPath();
        run.forEach(([x, value], index) => index ? pen.lineTo(x, y(value)) : pen.moveTo(x, y(value)));
        pen.strokeStyle = colour; pen.lineWidth = 1.3; pen.lineJoin = "round"; pen.stroke();
      }
      run = [];
    };
    for (const point of curve(label)) if (point[1] === null) flush(); else run.push(point);
    flush();
    if (label in data.thresholds) {
      pen.setLineDash([5, 4]); pen.strokeStyle = MUTED; pen.lineWidth = 1; pen.globalAlpha = 0.7;
      line(pen, left(), y(data.thresholds[label]), width(), y(data.thresholds[label]));
      pen.setLineDash([]); pen.globalAlpha = 1;
    }
  }

  function line(pen, x0, y0, x1, y1) {
    pen.beginPath(); pen.moveTo(x0, y0); pen.lineTo(x1, y1); pen.stroke();
  }

  function box(item) {
    const from = toX(item.start), to = Math.max(toX(item.end), from + 5);
    return { from, to, top: topOf(laneOf(item)) + heightOf(laneOf(item)) - barHeight - 3 };
  }

  function drawItem(pen, item) {
    const { from, to, top } = box(item), colour = colourOf(item);
    if (to < left() - 4 || from > width() + 4) return;
    pen.beginPath(); pen.roundRect(from, top, to - from, barHeight, 3);
    pen.fillStyle = "#fff"; pen.fill();
    if (item.verdict === "rejected") {
      pen.save(); pen.clip(); pen.strokeStyle = "#9aa6b0"; pen.lineWidth = 1.5;
      for (let x = Math.max(from, -20) - barHeight; x < Math.min(to, width() + 20); x += 5) line(pen, x, top + barHeight, x + barHeight, top);
      pen.restore();
      pen.beginPath(); pen.roundRect(from, top, to - from, barHeight, 3);
      pen.strokeStyle = "#7b8790"; pen.lineWidth = 1; pen.stroke();
    } else {
      pen.globalAlpha = item.verdict === "pending" ? 0.22 : 1; pen.fillStyle = colour; pen.fill(); pen.globalAlpha = 1;
      pen.strokeStyle = colour; pen.lineWidth = 1.6; pen.stroke();
      if (item.verdict === "accepted" && to - from > 16 && !Review.isNormal(item)) {
        pen.beginPath(); pen.moveTo(from + 4.5, top + 7.2); pen.lineTo(from + 7, top + 10); pen.lineTo(from + 11.5, top + 4.2);
        pen.strokeStyle = "#fff"; pen.lineWidth = 1.8; pen.stroke();
      }
    }
  }

  function drawSelection(pen, item, high) {
    const { from, to, top } = box(item);
    pen.fillStyle = colourOf(item); pen.globalAlpha = 0.08; pen.fillRect(from, 0, to - from, high - AXIS_PX); pen.globalAlpha = 1;
    drawItem(pen, item);
    pen.beginPath(); pen.roundRect(from - 2, top - 2, to - from + 4, barHeight + 4, 4);
    pen.strokeStyle = INK; pen.lineWidth = 2; pen.stroke();
    for (const x of [from - 3.5, to + 3.5]) { // outside, so that they do not hide a short event
      pen.beginPath(); pen.roundRect(x - 3.5, top - 3, 7, barHeight + 6, 3);
      pen.fillStyle = INK; pen.fill();
      pen.strokeStyle = "#fff"; pen.lineWidth = 1.2; line(pen, x, top + 2, x, top + barHeight - 2);
    }
  }

  function drawAxis(pen, high) {
    const span = state.view[1] - state.view[0], most = Math.max(2, Math.floor((width() - left()) / 95));
    const step = STEPS.find((size) => span / size <= most) || 86400 * Math.ceil(span / 86400 / most);
    const offset = data.clock_seconds ?? 0;
    pen.font = `12px ${FONT}`; pen.textAlign = "center"; pen.textBaseline = "middle"; pen.lineWidth = 1;
    for (let at = Math.ceil((state.view[0] + offset) / step) * step - offset; at <= state.view[1]; at += step) {
      const x = toX(at), told = on.axis(at, step), half = pen.measureText(told).width / 2;
      pen.strokeStyle = RULE; line(pen, x, 0, x, high - AXIS_PX + 4);
      pen.fillStyle = MUTED; pen.fillText(told, Math.min(Math.max(x, left() + half + 4), width() - half - 4), high - AXIS_PX / 2 + 1);
    }
  }

  // A name that fits: its two ends tell it from others.
  function fitted(pen, name, room) {
    for (let kept = name.length; kept > 3; kept -= 1) {
      const text = kept === name.length ? name : `${name.slice(0, Math.ceil(kept / 2))}…${name.slice(name.length - Math.floor(kept / 2))}`;
      if (pen.measureText(text).width <= room) return text;
    }
    return name.slice(0, 3);
  }

  function drawNames(pen) {
    pen.textAlign = "left"; pen.textBaseline = "top"; pen.lineJoin = "round";
    shown.forEach((label, index) => {
      const top = topOf(index), middle = top + heightOf(index) / 2, count = state.items.filter((item) => laneOf(item) === index).length;
      pen.font = `600 12.5px ${FONT}`;
      const room = (left() || width()) - 20, breaks = [...label.matchAll(/[_ /-]/g)].map((found) => found.index + 1);
      const at = breaks.findLast((index) => pen.measureText(label.slice(0, index)).width <= room);
      if (left() && at && pen.measureText(label).width > room) {
        pen.fillStyle = INK;
        pen.fillText(label.slice(0, at), 12, middle - 15);
        pen.fillText(fitted(pen, label.slice(at), room), 12, middle + 1);
        return;
      }
      const name = fitted(pen, label, room);
      if (!left()) { pen.strokeStyle = "rgba(255, 255, 255, .9)"; pen.lineWidth = 4; pen.strokeText(name, 8, top + 5); }
      pen.fillStyle = INK; pen.fillText(name, 12 - (left() ? 0 : 4), left() ? middle - 15 : top + 5);
      if (!left()) return;
      pen.font = `12px ${FONT}`; pen.fillStyle = MUTED;
      pen.fillText(count ? `${count} ${label === NORMAL ? "stretch" : "event"}${count > 1 ? label === NORMAL ? "es" : "s" : ""}` : "no event", 12, middle + 2);
    });
  }

  function drawLanes() {
    const pen = ready(lanes), high = lanes.clientHeight, chosen = state.items.find((item) => item.id === state.selected);
    pen.save();
    pen.beginPath(); pen.rect(left(), 0, width() - left(), high); pen.clip();
    pen.fillStyle = "#e4e8ec";
    for (const [start, end] of data.not_scored) pen.fillRect(toX(start), 0, Math.max(1, toX(end) - toX(start)), high - AXIS_PX);
    pen.fillStyle = BLIND;
    for (const [start, end] of data.blind) pen.fillRect(toX(start), 0, Math.max(2, toX(end) - toX(start)), high - AXIS_PX);
    drawAxis(pen, high);
    pen.font = `12px ${FONT}`; pen.fillStyle = MUTED; pen.textAlign = "center"; pen.textBaseline = "top";
    const seeing = data.not_scored.filter(([start, end]) => !data.blind.some((one) => one[0] < end && one[1] > start));
    for (const [start, end, why] of [...seeing, ...data.blind.map(([start, end, why]) => [start, end, `camera ${why}`])]) {
      pen.fillStyle = why.startsWith("camera ") ? INK : MUTED;
      if (pen.measureText(why).width + 8 < toX(end) - toX(start)) pen.fillText(why, (toX(Math.max(start, state.view[0])) + toX(Math.min(end, state.view[1]))) / 2, 6);
    }
    shown.forEach((label, index) => { if (label !== NORMAL) drawScores(pen, label, index * laneHeight); });
    state.items.forEach((item) => { if (item !== chosen) drawItem(pen, item); });
    if (chosen) drawSelection(pen, chosen, high);
    pen.restore();
    pen.strokeStyle = RULE; pen.lineWidth = 1;
    shown.forEach((_, index) => line(pen, 0, topOf(index + 1) - 0.5, width(), topOf(index + 1) - 0.5));
    if (left()) line(pen, left() - 0.5, 0, left() - 0.5, high - AXIS_PX);
    drawNames(pen);
    const x = toX(state.now);
    if (x < left() - 1 || x > width() + 1) return;
    pen.strokeStyle = "#fff"; pen.lineWidth = 4; line(pen, x, 0, x, high - AXIS_PX);
    pen.strokeStyle = INK; pen.lineWidth = 2; line(pen, x, 0, x, high - AXIS_PX);
    pen.beginPath(); pen.moveTo(x - 6, 0); pen.lineTo(x + 6, 0); pen.lineTo(x, 8); pen.closePath(); pen.fillStyle = INK; pen.fill();
  }

  function drawOverview() {
    const pen = ready(overview), wide = overview.clientWidth, high = overview.clientHeight;
    const at = (seconds) => left() + seconds / data.duration_seconds * (wide - left());
    if (left()) { pen.font = `12px ${FONT}`; pen.fillStyle = MUTED; pen.textBaseline = "middle"; pen.fillText("All of it", 12, high / 2 + 1); }
    pen.fillStyle = "#d3dae0";
    for (const [start, end] of data.not_scored) pen.fillRect(at(start), 0, Math.max(1, at(end) - at(start)), high);
    pen.fillStyle = BLIND;
    for (const [start, end] of data.blind) pen.fillRect(at(start), 0, Math.max(2, at(end) - at(start)), high);
    for (const item of state.items) {
      pen.fillStyle = item.verdict === "rejected" ? "#aeb9c2" : colourOf(item);
      pen.globalAlpha = item.verdict === "pending" ? 0.6 : 1;
      pen.fillRect(at(item.start), 6, Math.max(2.5, at(item.end) - at(item.start)), high - 12);
    }
    pen.globalAlpha = 1;
    const [from, to] = state.view.map(at);
    pen.fillStyle = "rgba(27, 39, 51, .16)"; pen.fillRect(left(), 0, from - left(), high); pen.fillRect(to, 0, wide - to, high);
    if (to - from < wide - left() - 1) { pen.strokeStyle = INK; pen.lineWidth = 2; pen.strokeRect(from + 1, 1, Math.max(4, to - from - 2), high - 2); }
    pen.fillStyle = INK; pen.fillRect(at(state.now) - 1, 0, 2, high);
  }

  function setView(from, to) {
    const span = Math.min(Math.max(to - from, LEAST_VIEW_SECONDS), data.duration_seconds);
    const start = Math.min(Math.max(0, (from + to) / 2 - span / 2), data.duration_seconds - span);
    state.view = [start, start + span];
    draw();
  }

  function zoom(factor, about = state.now) {
    const [from, to] = state.view, inside = about >= from && about <= to ? about : (from + to) / 2;
    setView(inside - (inside - from) * factor, inside + (to - inside) * factor);
  }

  function show(start, end) {
    const [from, to] = state.view, span = to - from;
    if (end - start > span) setView(start - 0.1 * span, end + 0.1 * span);
    else if (start < from + 0.04 * span || end > to - 0.04 * span) setView((start + end - span) / 2, (start + end + span) / 2);
  }

  function place(event, canvas) {
    const area = canvas.getBoundingClientRect();
    return [event.clientX - area.left, event.clientY - area.top];
  }

  const near = (event) => event.pointerType === "mouse" ? 8 : 20;

  function edgeAt(event) {
    const item = state.items.find((one) => one.id === state.selected);
    if (!item) return null;
    const [x, y] = place(event, lanes), { from, to, top } = box(item);
    if (y < top - 8 || y > top + barHeight + 8) return null;
    const distances = [Math.abs(x - from), Math.abs(x - to)];
    if (Math.min(...distances) > near(event)) return null;
    return { item, side: (distances[0] <= distances[1] && x < (from + to) / 2) || distances[0] < distances[1] ? "start" : "end" };
  }

  function itemAt(event) {
    const [x, y] = place(event, lanes), slack = near(event) / 2;
    const hit = state.items.filter((item) => {
      const { from, to, top } = box(item);
      return x >= from - slack && x <= to + slack && y >= top - slack && y <= top + barHeight + slack;
    });
    return hit.sort((one, two) => (one.end - one.start) - (two.end - two.start))[0];
  }

  lanes.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const edge = edgeAt(event), item = !edge && itemAt(event);
    if (item) { on.select(item.id); return; }
    grabbed = edge || { side: "now" };
    lanes.setPointerCapture(event.pointerId);
    if (edge) on.grab(); else on.seek(toSeconds(place(event, lanes)[0]));
  });
  lanes.addEventListener("pointermove", (event) => {
    if (!grabbed) {
      lanes.style.cursor = edgeAt(event) ? "ew-resize" : "pointer";
      return;
    }
    const at = toSeconds(place(event, lanes)[0]);
    if (grabbed.side === "now") on.seek(at); else on.move(grabbed.item.id, grabbed.side, at);
  });
  const release = () => {
    if (grabbed && grabbed.item) on.drop(grabbed.item.id);
    grabbed = null;
  };
  lanes.addEventListener("pointerup", release);
  lanes.addEventListener("pointercancel", release);
  lanes.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) zoom(event.deltaY > 0 ? 1.25 : 0.8, toSeconds(place(event, lanes)[0]));
    else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const step = (event.deltaX || event.deltaY) / (width() - left()) * (state.view[1] - state.view[0]);
      setView(state.view[0] + step, state.view[1] + step);
    } else return;
    event.preventDefault();
  }, { passive: false });
  const jump = (event) => {
    if (event.buttons !== 1 && event.type !== "pointerdown") return;
    const at = (place(event, overview)[0] - left()) / (width() - left()) * data.duration_seconds, half = (state.view[1] - state.view[0]) / 2;
    if (half * 2 < data.duration_seconds) setView(at - half, at + half);
    on.seek(Math.min(Math.max(0, at), data.duration_seconds));
  };
  overview.addEventListener("pointerdown", (event) => { overview.setPointerCapture(event.pointerId); jump(event); });
  overview.addEventListener("pointermove", jump);

  let asked = false;
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; drawLanes(); drawOverview(); on.viewed(data.hazards.length - shown.filter((name) => name !== NORMAL).length); });
  }
  new ResizeObserver(draw).observe(lanes);
  return { draw, choose, zoom, setView, show };
}
