// The page: state, video, list, editor, keys, tables.
(() => {
  const data = JSON.parse(document.getElementById("timeline-data").textContent);
  const $ = (id) => document.getElementById(id);
  const video = $("video"), state = { items: [], selected: null, view: [0, data.duration_seconds], now: 0, filter: "all" };
  const past = [];
  let keeps = true, tracks = null, stopAt = null, playable = false, grabbing = false, saidTimer = 0, opened = null;

  function el(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }
  const plural = (count, one, several = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : several}`;

  // Times: 1:02.5 or 1:01:02.5; on the wall where the clock is known.
  function clock(value, digits = 1) {
    const parts = 10 ** digits, whole = Math.round(value * parts) / parts, hours = Math.floor(whole / 3600);
    const minutes = Math.floor(whole / 60) % 60, rest = (whole % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
    return data.duration_seconds >= 3600 || hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
  }
  function wall(value, withSeconds = true) {
    const at = Math.floor(((data.clock_seconds + value) % 86400 + 86400) % 86400 + 1e-6);
    const two = (number) => String(number).padStart(2, "0");
    return `${two(Math.floor(at / 3600))}:${two(Math.floor(at / 60) % 60)}${withSeconds ? `:${two(at % 60)}` : ""}`;
  }
  const hasClock = data.clock_seconds !== null;
  function parse(text) {
    const found = /^\s*(?:(?:(\d+):)?(\d+):)?(\d+(?:[.,]\d*)?)\s*$/.exec(text);
    return found ? 3600 * (found[1] || 0) + 60 * (found[2] || 0) + Number(found[3].replace(",", ".")) : NaN;
  }
  const percent = (score) => score === null || score === undefined ? "" : `${Math.round(100 * score)} %`;
  const length = (value) => value < 10 ? `${value.toFixed(1)} s` : value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
  const WORDS = { pending: "to review", accepted: "accepted", relabelled: "relabelled", added: "added", rejected: "rejected", normal: "normal" };
  const lower = (number) => Math.min(Math.max(0, number), data.duration_seconds);

  // What the grey stretches are.
  function explain() {
    const told = [];
    if (data.not_scored.length) told.push(el("span", {}, el("i"), "not scored"));
    for (const why of new Set(data.blind.map(([, , reason]) => reason))) {
      const seconds = data.blind.reduce((sum, [start, end, reason]) => sum + (reason === why ? end - start : 0), 0);
      told.push(el("span", {}, el("i", { className: "blind" }), `camera ${why} for ${length(seconds)}${why === "moved" ? ", still scored" : ""}`));
    }
    $("legend").replaceChildren(...told);
    $("legend").hidden = !told.length;
  }

  function say(text) {
    $("said").textContent = text;
    $("said").classList.add("on");
    clearTimeout(saidTimer);
    saidTimer = setTimeout(() => $("said").classList.remove("on"), 2500);
  }

  // State.
  const chosen = () => state.items.find((item) => item.id === state.selected);
  const sorted = () => [...state.items].sort(Review.byStart);
  const events = () => sorted().filter((item) => !Review.isNormal(item));
  const newId = (letter) => `${letter}${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;

  function keep() {
    try {
      localStorage.setItem(data.storage_key, JSON.stringify({ fingerprint: data.fingerprint, items: state.items, selected: state.selected }));
      keeps = true;
    } catch {
      keeps = false;
    }
  }
  function remember() {
    past.push(JSON.stringify([state.items, state.selected]));
    if (past.length > 200) past.shift();
  }
  function change(work, text) {
    remember();
    work();
    keep();
    render();
    if (text) say(text);
  }
  function undo() {
    if (!past.length) return;
    [state.items, state.selected] = JSON.parse(past.pop());
    keep();
    render();
    say("Undone");
  }
  function recall() {
    let saved = null;
    try { saved = JSON.parse(localStorage.getItem(data.storage_key)); } catch { keeps = false; }
    const found = Review.restore(data, saved);
    state.items = found.items;
    const first = events().find((item) => item.verdict === "pending") || events()[0];
    state.selected = saved && state.items.some((item) => item.id === saved.selected) ? saved.selected : first ? first.id : null;
    if (found.kept) say(`${plural(found.kept, "decision")} on an earlier timeline of this footage kept`);
  }

  // Video.
  function seek(at) {
    state.now = lower(at);
    stopAt = null;
    if (playable) video.currentTime = state.now;
    timeShown();
    tracks.draw();
  }
  function togglePlay() {
    if (!playable) return;
    stopAt = null;
    if (video.paused) video.play().catch(() => say("The browser does not play this video")); else video.pause();
  }
  function playEvent() {
    const item = chosen();
    if (!item || !playable) return;
    seek(item.start - 1);
    stopAt = item.end + 1;
    video.play().catch(() => say("The browser does not play this video"));
  }
  function tick() {
    if (video.paused) return;
    state.now = lower(video.currentTime);
    if (stopAt !== null && state.now >= stopAt) { video.pause(); stopAt = null; }
    const [from, to] = state.view;
    if (state.now > to || state.now < from) tracks.setView(state.now - 0.02 * (to - from), state.now + 0.98 * (to - from));
    timeShown();
    tracks.draw();
    requestAnimationFrame(tick);
  }
  function timeShown() {
    $("now").textContent = clock(state.now);
    $("now-of").textContent = `of ${clock(data.duration_seconds, 0)}${hasClock ? ` · ${wall(state.now)}` : ""}`;
    $("lanes").setAttribute("aria-valuenow", state.now.toFixed(1));
    $("lanes").setAttribute("aria-valuetext", clock(state.now));
    const here = state.items.find((item) => item.verdict !== "rejected" && !Review.isNormal(item) && item.start <= state.now && state.now < item.end);
    const tag = $("on-screen");
    tag.hidden = !here;
    if (here) { tag.textContent = `${here.label}${here.modelScore ? `  ${percent(here.modelScore)}` : ""}`; tag.style.background = data.colours[here.label]; }
  }
  function noVideo(text) {
    playable = false;
    $("no-video").hidden = false;
    $("no-video-text").textContent = text;
    for (const id of ["play", "speed"]) $(id).disabled = true;
  }
  function openVideo(source) {
    video.src = source;
    video.load();
  }
  video.addEventListener("loadedmetadata", () => {
    playable = true;
    $("no-video").hidden = true;
    for (const id of ["play", "speed"]) $(id).disabled = false;
    video.playbackRate = Number($("speed").value);
    video.currentTime = state.now;
    fillEditor();
  });
  video.addEventListener("error", () => noVideo(opened ? `The browser cannot play ${opened}. Choose ${data.file_name}, or a copy of it as H.264.`
    : `${data.file_name} is not where it was when this page was made.`));
  for (const [name, shape, label] of [["play", "M6 4h4v16H6zM14 4h4v16h-4z", "Pause"], ["pause", "M7 4v16l13-8z", "Play"]]) {
    video.addEventListener(name, () => { $("play-shape").setAttribute("d", shape); $("play").setAttribute("aria-label", label); requestAnimationFrame(tick); });
  }
  $("pick-video").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) { opened = file.name; openVideo(URL.createObjectURL(file)); }
  });

  // Choosing and judging.
  function select(id, { jump = true } = {}) {
    state.selected = id;
    keep();
    const item = chosen();
    if (item && jump) { tracks.show(item.start, item.end); seek(item.start); }
    render();
  }
  function step(direction) {
    const all = listed(), at = all.findIndex((item) => item.id === state.selected);
    const other = at < 0 ? (direction > 0 ? all.find((item) => item.start > state.now) : all.findLast((item) => item.start < state.now)) : all[at + direction];
    if (other) select(other.id);
  }
  function judge(verdict) {
    const item = chosen();
    if (!item || Review.isNormal(item)) return;
    const undoing = item.verdict === verdict && item.origin === "model";
    change(() => { item.verdict = undoing ? "pending" : verdict; }, undoing ? "To review again" : verdict === "accepted" ? "Accepted" : `Rejected: ${data.negative_label} for training`);
    if (undoing) return;
    const waiting = events().filter((one) => one.verdict === "pending");
    const following = waiting.find((one) => one.start >= item.start) || waiting[0];
    if (following) select(following.id);
  }
  function relabel(label) {
    const item = chosen();
    if (!item || Review.isNormal(item) || !data.labels.includes(label)) return;
    change(() => { item.label = label; item.verdict = "accepted"; }, `Now ${label}`);
    editor.parts.label.blur();
  }
  function add() {
    if (video && !video.paused) video.pause();
    const long = Math.min(data.window_seconds, data.duration_seconds), start = Math.min(state.now, data.duration_seconds - long);
    const before = chosen(), label = before && data.hazards.includes(before.label) ? before.label : data.hazards[0] || data.labels[0];
    const item = { id: newId("a"), start: tenth(start), end: tenth(start + long), label, verdict: "accepted", origin: "person", modelLabel: "", modelScore: null, peak: start };
    change(() => { state.items.push(item); state.selected = item.id; if (state.filter !== "all") state.filter = "all"; }, "Added; set its label and borders");
    tracks.show(item.start, item.end);
  }
  function remove() {
    const item = chosen();
    if (!item || item.origin === "model") return;
    const all = listed(), at = all.indexOf(item), other = all[at + 1] || all[at - 1];
    change(() => { state.items = state.items.filter((one) => one !== item); state.selected = other ? other.id : null; }, "Removed");
  }
  const tenth = (value) => Math.round(value * 100) / 100;
  function setBorder(side, value) {
    const item = chosen();
    if (!item) return;
    if (!Number.isFinite(value)) { say("A time such as 1:02.5"); fillEditor(true); return; }
    change(() => moveBorder(item, side, value));
  }
  function moveBorder(item, side, value) {
    const least = Review.SHORTEST_SECONDS, at = tenth(lower(value));
    if (side === "start") item.start = Math.max(0, Math.min(at, item.end - least));
    else item.end = Math.min(data.duration_seconds, Math.max(at, item.start + least));
  }

  // Drawing.
  const FILTERS = {
    all: ["All", () => true], pending: ["To do", (item) => item.verdict === "pending"],
    accepted: ["Accepted", (item) => item.verdict === "accepted" && !Review.isNormal(item)],
    rejected: ["Rejected", (item) => item.verdict === "rejected"], normal: ["Normal", Review.isNormal],
  };
  const listed = () => sorted().filter(FILTERS[state.filter][1]);

  function fillList() {
    const list = $("list"), hadFocus = list.contains(document.activeElement);
    $("filters").replaceChildren(...Object.entries(FILTERS).map(([name, [text, belongs]]) => {
      const count = state.items.filter(belongs).length;
      const button = el("button", { type: "button", textContent: `${text} ${count}`, onclick: () => { state.filter = name; render(); $("filters").querySelector(`[data-name=${name}]`).focus(); } });
      button.dataset.name = name;
      button.setAttribute("aria-pressed", String(state.filter === name));
      button.hidden = !count && name !== "all" && name !== state.filter;
      return button;
    }));
    const rows = listed().map((item) => {
      const kind = Review.kindOf(item), dot = el("span", { className: "dot" });
      dot.style.background = Review.isNormal(item) ? "#5f6b75" : data.colours[item.label] || "#5f6b75";
      const button = el("button", { type: "button", onclick: () => select(item.id) }, dot,
        el("span", { className: "name", textContent: item.label, title: item.label }), el("span", { className: `chip ${kind}`, textContent: WORDS[kind] }),
        el("span", { className: "when", textContent: `${hasClock ? `${wall(item.start)} · ` : ""}${clock(item.start)} to ${clock(item.end)}` }),
        el("span", { className: "score", textContent: percent(item.modelScore) }));
      const row = el("li", { className: kind }, button);
      row.dataset.id = item.id;
      if (item.id === state.selected) row.setAttribute("aria-current", "true");
      return row;
    });
    const nothing = state.items.length ? "None of this kind." : "The model found no event. Add what it missed, or take normal footage below.";
    list.replaceChildren(...(rows.length ? rows : [el("li", { className: "empty", textContent: nothing })]));
    const current = list.querySelector("[aria-current]");
    if (current && hadFocus) current.firstChild.focus();
    if (current && window.matchMedia("(min-width: 60.01rem)").matches) {
      const area = list.getBoundingClientRect(), place = current.getBoundingClientRect();
      if (place.top < area.top || place.bottom > area.bottom) list.scrollTop += place.top - area.top - area.height / 3;
    }
  }

  const editor = { parts: null };
  function buildEditor() {
    const key = (name) => el("kbd", { textContent: name, ariaHidden: "true" });
    const time = (side, letter) => {
      const input = el("input", { type: "text", inputMode: "decimal", autocomplete: "off", onchange: () => setBorder(side, parse(input.value)) });
      const set = el("button", { type: "button", title: `Set to the time that is shown (${letter})`, textContent: "Now", onclick: () => setBorder(side, state.now) }, key(letter));
      return [input, el("label", { textContent: side === "start" ? "Starts" : "Ends" }, el("span", { className: "pair" }, input, set))];
    };
    const [start, startLabel] = time("start", "["), [end, endLabel] = time("end", "]");
    const parts = {
      start, end, number: el("span"), length: el("span"), dot: el("span", { className: "dot" }), name: el("span"),
      yes: el("button", { type: "button", className: "yes", textContent: "Accept", onclick: () => judge("accepted") }, key("A")),
      no: el("button", { type: "button", className: "no", textContent: "Reject", onclick: () => judge("rejected") }, key("R")),
      label: el("select", { onchange: () => relabel(parts.label.value) }, ...data.labels.map((name) => el("option", { value: name, textContent: name }))),
      play: el("button", { type: "button", className: "plain", textContent: "Play it", title: "P", onclick: playEvent }),
      near: el("button", { type: "button", className: "plain", textContent: "Zoom to it", title: "Z", onclick: zoomTo }),
      gone: el("button", { type: "button", className: "plain", textContent: "Remove", title: "Delete", onclick: remove }),
    };
    parts.verdicts = el("div", { className: "verdicts" }, parts.yes, parts.no);
    parts.label.setAttribute("aria-label", "Label");
    parts.body = el("div", {}, el("p", { className: "which" }, parts.number, parts.length), el("div", { className: "what" }, parts.dot, parts.label, parts.name), parts.verdicts,
      el("div", { className: "fields" }, startLabel, endLabel), el("p", { className: "more" }, parts.play, parts.near, parts.gone));
    parts.empty = el("p", { className: "note" });
    $("editor").append(parts.body, parts.empty);
    editor.parts = parts;
  }
  function fillEditor(always = false) {
    const item = chosen(), parts = editor.parts, set = (input, value) => { if (always || document.activeElement !== input || !input.dataset.typing) input.value = value; };
    parts.body.hidden = !item;
    parts.empty.hidden = Boolean(item);
    parts.empty.textContent = state.items.length ? "Choose an event in the list or on the timeline." : "No event. Play the video and press Add event where something happens.";
    if (!item) return;
    const kind = Review.kindOf(item), all = events(), normal = Review.isNormal(item);
    parts.number.textContent = normal ? "Normal footage" : `Event ${all.indexOf(item) + 1} of ${all.length} · ${kind === "relabelled" ? `was ${item.modelLabel}` : WORDS[kind]}`;
    parts.length.textContent = `${length(item.end - item.start)}${item.modelScore ? ` · score ${percent(item.modelScore)}` : ""}`;
    parts.name.textContent = item.label;
    parts.dot.style.background = normal ? "#5f6b75" : data.colours[item.label] || "#5f6b75";
    parts.verdicts.hidden = parts.label.hidden = normal;
    parts.name.hidden = !normal;
    parts.yes.setAttribute("aria-pressed", String(item.verdict === "accepted"));
    parts.no.setAttribute("aria-pressed", String(item.verdict === "rejected"));
    parts.label.value = item.label;
    set(parts.start, clock(item.start, 2));
    set(parts.end, clock(item.end, 2));
    parts.play.disabled = !playable;
    parts.gone.hidden = item.origin === "model";
  }
  function zoomTo() {
    const item = chosen();
    if (item) { const room = Math.max(2, 0.5 * (item.end - item.start)); tracks.setView(item.start - room, item.end + room); }
  }

  function fillExport() {
    const { rows, problems } = Review.trainingRows(data, state.items), count = (...kinds) => rows.filter((row) => kinds.includes(row.review)).length;
    const waiting = state.items.filter((item) => item.verdict === "pending").length;
    const parts = [[count("accepted", "relabelled", "added"), "event"], [count("rejected"), "hard negative"], [count("normal"), "stretch of normal footage", "stretches of normal footage"]];
    const told = parts.filter(([number]) => number).map((part) => plural(...part));
    $("export-words").textContent = `${rows.length ? `${plural(rows.length, "row")}: ${told.join(", ")}.` : "No row yet: accept or reject events first."}${waiting ? ` ${waiting} not reviewed, left out.` : ""}`;
    const problem = $("problem"), oneLabel = rows.length && new Set(rows.map((row) => row.label)).size === 1;
    problem.hidden = !problems.length && !oneLabel;
    problem.classList.toggle("mild", !problems.length);
    problem.replaceChildren();
    if (problems.length) {
      const [one, two] = problems[0];
      problem.append(`${one.label} (${clock(one.start)} to ${clock(one.end)}) and ${two.label} (${clock(two.start)} to ${clock(two.end)}) overlap. A moment has one label: move a border, or reject one. `,
        el("button", { type: "button", className: "plain", textContent: "Show it", onclick: () => select(two.id) }));
    } else if (oneLabel) problem.append(`All rows are ${rows[0].label}; training needs a second label. ${rows[0].label === data.negative_label ? "Accept or add events" : "Add normal footage"}, or join tables of other videos.`);
    $("save-training").disabled = !rows.length || problems.length > 0;
    $("save-truth").disabled = !Review.truthRows(data, state.items).length;
    $("normal-clear").disabled = !state.items.some(Review.isNormal);
    $("kept").textContent = keeps ? "Your decisions are kept in this browser." : "This browser keeps nothing: download before you close the page.";
  }

  function render() {
    tracks.choose();
    const all = events(), done = all.filter((item) => item.verdict !== "pending").length;
    $("num-reviewed").textContent = done;
    $("num-all").textContent = all.length;
    $("num-all").closest(".reviewed").style.visibility = all.length ? "visible" : "hidden";
    $("meter").style.width = `${all.length ? 100 * done / all.length : 100}%`;
    $("undo").disabled = !past.length;
    fillList();
    fillEditor();
    fillExport();
    timeShown();
    tracks.draw();
  }

  // Tables.
  function download(name, text) {
    const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say(`${name} downloaded`);
  }
  $("save-training").onclick = () => download(`${data.file_name}.review.csv`, Review.csv(data.review_columns, Review.trainingRows(data, state.items).rows));
  $("save-truth").onclick = () => download(`${data.file_name}.truth.csv`, Review.csv(data.truth_columns, Review.truthRows(data, state.items)));
  $("normal-add").onclick = () => {
    const count = Math.min(500, Math.max(1, Math.round(Number($("normal-count").value) || 10)));
    const found = Review.normalStretches(data, state.items, count, $("normal-how").value);
    if (!found.length) { say(`No stretch of ${length(data.window_seconds)} without an event is left`); return; }
    change(() => state.items.push(...found.map((item) => ({ ...item, id: newId("n") }))), `${plural(found.length, "stretch", "stretches")} of normal footage added; look through them`);
  };
  $("normal-clear").onclick = () => change(() => {
    state.items = state.items.filter((item) => !Review.isNormal(item));
    if (state.filter === "normal") state.filter = "all";
    if (!chosen()) state.selected = null;
  }, "Normal footage removed");
  $("reset").onclick = () => change(() => { state.items = Review.fromModel(data); state.selected = events()[0]?.id ?? null; state.filter = "all"; }, "Back to the model's events; Undo brings your decisions back");

  // Keys.
  const KEYS = [
    [["Space"], "play or pause"], [["P"], "play the event"], [["←", "→"], "1 second, with Shift 10"], [[",", "."], "one picture"], [["J", "K"], "next, previous event"],
    [["A"], "accept"], [["R"], "reject"], [["1 … 9"], "label, by its place in the list"], [["N"], "add an event here"], [["[", "]"], "starts here, ends here"],
    [["Del"], "remove what you added"], [["+", "−", "0"], "zoom in, out, all"], [["Z"], "zoom to the event"], [["Ctrl + wheel"], "zoom; Shift + wheel moves"], [["U"], "undo"],
  ];
  $("keys").append(el("dl", {}, ...KEYS.flatMap(([names, text]) => [el("dt", {}, ...names.map((name) => el("kbd", { textContent: name }))), el("dd", { textContent: text })])));
  const showKeys = (on) => { $("keys").hidden = !on; $("show-keys").setAttribute("aria-expanded", String(on)); };
  $("show-keys").onclick = () => showKeys($("keys").hidden);
  const ACTIONS = {
    " ": togglePlay, p: playEvent, j: () => step(1), k: () => step(-1), a: () => judge("accepted"), r: () => judge("rejected"), n: add, u: undo, z: zoomTo,
    "[": () => setBorder("start", state.now), "]": () => setBorder("end", state.now), delete: remove, backspace: remove, "+": () => tracks.zoom(0.5), "=": () => tracks.zoom(0.5),
    "-": () => tracks.zoom(2), 0: () => tracks.setView(0, data.duration_seconds), ",": () => seek(state.now - 0.04), ".": () => seek(state.now + 0.04),
    "?": () => showKeys($("keys").hidden), escape: () => showKeys(false),
  };
  document.addEventListener("keydown", (event) => {
    const at = event.target, typing = at.matches("input, select, textarea"), name = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && name === "z" && !typing) { event.preventDefault(); undo(); return; }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) { if (name === "escape" || name === "enter") at.blur(); return; }
    if (at.matches("button, summary") && name === " " && !at.closest("#list")) return;
    if (name === "arrowleft" || name === "arrowright") { event.preventDefault(); seek(state.now + (name === "arrowleft" ? -1 : 1) * (event.shiftKey ? 10 : 1)); tracks.show(state.now, state.now); return; }
    if (/^[1-9]$/.test(name)) { relabel(data.labels[Number(name) - 1]); return; }
    if (ACTIONS[name]) { event.preventDefault(); ACTIONS[name](); }
  });

  // After a click with the mouse the keys are for the video again.
  document.addEventListener("click", (event) => { if (event.detail && document.activeElement.matches("button, summary")) document.activeElement.blur(); });

  function start() {
    const facts = [data.camera && `Camera ${data.camera}`, data.date && `${data.date}, ${wall(0)}`, clock(data.duration_seconds, 0), data.model && `model ${data.model}`];
    $("title").textContent = data.title;
    $("lead").textContent = facts.filter(Boolean).join(" · ");
    explain();
    $("command").replaceChildren("Then: ", el("code", { textContent: `railsformer build FOLDER --annotations ${data.file_name}.review.csv --output_dir DATASET` }),
      `. FOLDER holds ${data.file_name}. Put the rows of several videos in one table, so that whole cameras can be kept for the test.`);
    tracks = makeTracks(data, state, $("lanes"), $("overview"), {
      select, seek,
      axis: (at, size) => hasClock ? wall(at, size < 60) : clock(at, size < 1 ? 1 : 0),
      grab: () => { remember(); grabbing = true; },
      move: (id, side, at) => { const item = state.items.find((one) => one.id === id); moveBorder(item, side, at); seek(item[side]); fillEditor(); },
      drop: () => { if (grabbing) { grabbing = false; keep(); render(); } },
      viewed: (hidden) => { $("view-words").textContent = `${clock(state.view[0], 0)} to ${clock(state.view[1], 0)}${hidden > 0 ? ` · ${plural(hidden, "label")} with low scores not shown` : ""}`; },
    });
    buildEditor();
    $("lanes").setAttribute("aria-valuemax", data.duration_seconds.toFixed(1));
    $("previous").onclick = () => step(-1);
    $("next").onclick = () => step(1);
    $("play").onclick = togglePlay;
    $("add").onclick = add;
    $("undo").onclick = undo;
    $("zoom-in").onclick = () => tracks.zoom(0.5);
    $("zoom-out").onclick = () => tracks.zoom(2);
    $("zoom-all").onclick = () => tracks.setView(0, data.duration_seconds);
    $("speed").onchange = () => { video.playbackRate = Number($("speed").value); };
    recall();
    const item = chosen();
    if (item) state.now = item.start;
    render();
    if (data.video) openVideo(data.video); else noVideo("There is no video of this timeline; it was made from a live stream.");
    window.addEventListener("beforeunload", (event) => { if (!keeps && past.length) event.preventDefault(); });
  }
  start();
})();
