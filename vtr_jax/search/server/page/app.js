// The page of `python -m vtr_jax.search serve`: no library, no build step, no network
// but its own server. The query is in the address, after #.

const $ = (id) => document.getElementById(id);
const body = document.body, grid = $("grid"), player = $("player");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let hits = [];        // from the server
let shown = [];       // hits above the minimum score
let picture = null;   // {data, url} of a search by an image
let likeName = "";    // of the clip of a `like` search, if it was on the page
let request = null;   // AbortController of the running search
let open = -1;        // index in `shown` of the clip in the player
let touched = false;  // whether the last press was by touch

const url = (what, hit) => `/${what}/${hit.index}/${hit.row}?clip=${hit.clip}`;
const clock = (time, digits) => {
  const s = Number(time.toFixed(digits));
  return `${Math.floor(s / 60)}:${(s % 60).toFixed(digits).padStart(digits ? 4 : 2, "0")}`;
};
const still = (hit) => !hit.end; // an image
const range = (hit) => {
  if (still(hit)) return "picture";
  const digits = Math.round(hit.start) === Math.round(hit.end) ? 1 : 0;
  return `${clock(hit.start, digits)}–${clock(hit.end, digits)}`;
};
const number = (x) => x.toLocaleString("en");

// ---- queries -------------------------------------------------------------------------

function wanted() {
  const hash = new URLSearchParams(location.hash.slice(1));
  return {
    text: (hash.get("q") || "").trim(),
    like: hash.get("like") || "",
    picture: hash.has("picture"),
    folder: hash.get("folder") || "",
    top: Number(hash.get("top")) || 24,
    least: hash.get("least") || "",
    rerank: hash.has("rerank"),
  };
}

function address(change = {}) {
  const now = { ...wanted(), ...filters(), ...change }, hash = new URLSearchParams();
  if (now.text) hash.set("q", now.text);
  else if (now.like) hash.set("like", now.like);
  else if (now.picture) hash.set("picture", "");
  if (now.folder) hash.set("folder", now.folder);
  if (now.top !== 24) hash.set("top", now.top);
  if (now.least) hash.set("least", now.least);
  if (now.rerank) hash.set("rerank", "");
  return "#" + hash;
}

function filters() {
  return {
    folder: $("folder").value,
    top: Number($("top").value),
    least: $("least").value,
    rerank: $("rerank").checked,
  };
}

function go(change) {
  const next = address(change);
  if (next === location.hash || (next === "#" && !location.hash)) search();
  else location.hash = next;
}

function ask(text) {
  if (!text.trim() && !wanted().like && !wanted().picture) {
    complain("Say what you look for: a few words are enough.");
    return $("words").focus();
  }
  if (text.trim()) go({ text: text.trim(), like: "", picture: false });
  else go();
}

function similar(hit) {
  if (!hit) return;
  if (player.open) player.close();
  likeName = hit.name.split("/").pop();
  $("words").value = "";
  scrollTo({ top: 0 });
  go({ text: "", picture: false, like: `${hit.index},${hit.row},${hit.clip}` });
}

async function byPicture(file) {
  if (!file) return;
  if (!/^image\//.test(file.type)) return complain(`${file.name}: not a picture.`);
  const small = await smaller(file);
  const data = await new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.split(",")[1]);
    reader.readAsDataURL(small);
  });
  if (picture) URL.revokeObjectURL(picture.url);
  picture = { data, url: URL.createObjectURL(file) };
  $("words").value = "";
  go({ text: "", like: "", picture: true });
}

// Models see a few hundred pixels; a photo has thousands.
async function smaller(file) {
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(1, 512 / Math.min(image.width, image.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(image.width * scale);
    canvas.height = Math.round(image.height * scale);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => canvas.toBlob((b) => done(b || file), "image/jpeg", 0.92));
  } catch {
    return file; // the server may know the format, or reports an error
  }
}

// ---- hits ----------------------------------------------------------------------------

async function call(path, asked, signal) {
  let answer;
  try {
    answer = await fetch(path, asked && {
      method: "POST", signal,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

async function search() {
  const want = wanted();
  request?.abort();
  request = new AbortController();
  const mine = request;
  $("folder").value = want.folder;
  $("top").value = want.top;
  $("least").value = want.least;
  $("rerank").checked = want.rerank;
  $("words").value = want.text;
  chip(want);
  complain("");
  stop();
  document.title = want.text ? `${want.text} – videos` : "Search videos";
  if (want.picture && !picture) complain("A picture is not kept in the address: drop it again.");
  const asked = { top: want.top, folder: want.folder };
  if (want.text) {
    asked.text = want.text;
    if (want.rerank) asked.rerank = want.top;
  }
  else if (want.like) {
    const [index, row, clip] = want.like.split(",");
    asked.like = [Number(index), Number(row)];
    asked.clip = clip || "";
  } else if (want.picture && picture) asked.image = picture.data;
  else return sample();
  waiting(true);
  try {
    const found = await call("/api/search", asked, mine.signal);
    if (request !== mine) return;
    hits = found.hits;
    draw();
    const count = shown.length === 1 ? "1 clip" : `${number(shown.length)} clips`;
    $("status").textContent = `${count} in ${found.seconds < 1
      ? Math.max(1, Math.round(found.seconds * 1000)) + " ms" : found.seconds.toFixed(1) + " s"}`;
  } catch (error) {
    if (request !== mine || error.name === "AbortError") return;
    hits = [];
    grid.replaceChildren();
    $("status").textContent = "";
    complain(error.message);
  } finally {
    if (request === mine) waiting(false);
  }
}

let info = { sample: [], clips: 0 };

function sample() {
  request = null;
  waiting(false);
  body.classList.add("fresh");
  $("status").textContent = "";
  hits = info.sample;
  draw(false);
}

function waiting(yes) {
  body.classList.remove("fresh");
  body.classList.toggle("stale", yes);
  grid.setAttribute("aria-busy", yes);
  if (!yes || grid.querySelector("li:not(.skeleton)")) return;
  const one = document.createElement("li");
  one.className = "skeleton";
  one.innerHTML = '<div class="play"></div><div class="facts"> </div>';
  grid.replaceChildren(...Array.from({ length: 8 }, () => one.cloneNode(true)));
}

function draw(scored = true) {
  const least = parseFloat($("least").value);
  shown = scored && !Number.isNaN(least) ? hits.filter((hit) => hit.score >= least) : hits;
  const scores = hits.map((hit) => hit.score);
  const low = Math.min(...scores), high = Math.max(...scores);
  const share = (score) => (high > low ? 0.08 + (0.92 * (score - low)) / (high - low) : 1);
  grid.replaceChildren(...shown.map((hit, i) => tile(hit, i, scored && share(hit.score))));
  if (!shown.length && scored) {
    const none = document.createElement("li");
    none.className = "none";
    none.textContent = hits.length
      ? `No clip scores ${$("least").value} or more; the best has ${high.toFixed(3)}.`
      : "No clips here. Another folder?";
    grid.append(none);
  }
}

function tile(hit, i, share) {
  const li = $("tile").content.cloneNode(true).firstElementChild;
  const parts = hit.name.split("/"), file = parts.pop();
  const score = share === false ? "" : hit.score.toFixed(3);
  const name = li.querySelector(".name"), play = li.querySelector(".play");
  name.textContent = file + " ";
  name.title = hit.name;
  if (parts.length) {
    const folder = document.createElement("b");
    folder.textContent = parts.join("/");
    name.append(folder);
  }
  for (const image of li.querySelectorAll("img")) {
    image.onerror = () => image.classList.add("failed");
    image.src = url("poster", hit);
  }
  li.querySelector(".time").textContent = range(hit);
  li.querySelector(".score").textContent = score;
  if (share === false) li.querySelector(".bar").remove();
  else li.querySelector(".bar").value = share;
  play.setAttribute("aria-label", `Play ${hit.name}, ${range(hit)}${score && `, score ${score}`}`);
  const alike = li.querySelector(".similar");
  alike.setAttribute("aria-label", `Clips similar to ${hit.name}`);
  alike.onclick = () => similar(hit);
  let soon;
  li.onpointerenter = (e) => {
    if (e.pointerType === "mouse" && !calm.matches) soon = setTimeout(start, 120, li, hit);
  };
  li.onpointerleave = (e) => {
    clearTimeout(soon);
    if (e.pointerType === "mouse") stop(li);
  };
  play.onfocus = () => play.matches(":focus-visible") && !calm.matches && start(li, hit);
  play.onblur = () => stop(li);
  play.onpointerdown = (e) => (touched = e.pointerType === "touch");
  play.onclick = () => {
    // A finger cannot hover: its first tap plays the tile, its second opens the player.
    const first = touched && !li.classList.contains("playing") && !still(hit);
    touched = false;
    if (first) start(li, hit);
    else show(i);
  };
  return li;
}

// ---- playing -------------------------------------------------------------------------

// A video of a clip: the file itself, or the server's preview if the browser cannot play
// the file. `loops`: whether it repeats from start to end.
function moment(hit, loops, failed) {
  const video = document.createElement("video");
  let from = hit.start, to = hit.end, made = false;
  const other = () => {
    if (made) return failed();
    [made, from, to] = [true, 0, hit.end - hit.start];
    video.src = url("preview", hit);
    video.dispatchEvent(new Event("made"));
  };
  video.playsInline = video.autoplay = true;
  video.onerror = other;
  video.onloadedmetadata = () => {
    if (!video.videoWidth) return other(); // only the sound can be played
    if (from) video.currentTime = from;
  };
  video.onended = () => {
    if (!loops()) return;
    video.currentTime = from;
    video.play();
  };
  const watch = () => {
    if (!video.src) return;
    const now = video.currentTime;
    if (loops() && !video.seeking && !video.paused && (now >= to || now < from - 0.5)) video.currentTime = from;
    requestAnimationFrame(watch);
  };
  video.cut = (start, end) => {
    const zero = made ? hit.start : 0;
    [from, to] = [Math.max(start - zero, 0), made ? Math.min(end, hit.end) - zero : end];
    if (video.readyState) video.currentTime = from;
  };
  video.src = url("media", hit);
  requestAnimationFrame(watch);
  return video;
}

// Cuts the open clip to the moment that fits the words best, and draws how well each part
// around it fits.
async function refine(hit, video) {
  const { text } = wanted();
  if (!text || body.classList.contains("fresh")) return;
  let found;
  try {
    found = await call(`${url("moment", hit)}&text=${encodeURIComponent(text)}`);
  } catch {
    return; // the whole clip is shown
  }
  if (!found.curve || !video.isConnected) return;
  video.cut(found.start, found.end);
  const { first, last, curve } = found, low = Math.min(...curve), high = Math.max(...curve);
  const x = (time) => (100 * (time - first)) / (last - first);
  const y = (score) => 22 - (20 * (score - low)) / (high - low || 1);
  const points = curve.map((score, i) => `${(100 * (i + 0.5)) / curve.length},${y(score)}`);
  $("curve").querySelector("polyline").setAttribute("points", points.join(" "));
  const part = $("curve").querySelector("rect");
  part.setAttribute("x", x(found.start));
  part.setAttribute("width", x(found.end) - x(found.start));
  $("curve").removeAttribute("hidden"); // an SVG has no property of this name
  $("curve").onclick = (e) => {
    const box = $("curve").getBoundingClientRect();
    video.currentTime = first + ((last - first) * (e.clientX - box.left)) / box.width;
  };
  $("detail").textContent += ` · moment ${clock(found.start, 1)}–${clock(found.end, 1)}`;
}

// A video that is only removed from the page continues to load.
function end(video) {
  video.onerror = null;
  video.pause();
  video.removeAttribute("src");
  video.load();
  video.remove();
}

function start(li, hit) {
  if (li.classList.contains("playing") || still(hit)) return;
  stop();
  li.classList.add("playing");
  const video = moment(hit, () => true, () => stop(li));
  video.muted = true;
  video.tabIndex = -1;
  li.querySelector(".poster").after(video);
}

function stop(li) {
  for (const each of li ? [li] : grid.querySelectorAll(".playing")) {
    each.classList.remove("playing");
    each.querySelectorAll("video").forEach(end);
  }
}

function show(i) {
  const hit = shown[i], stage = player.querySelector(".stage");
  if (!hit) return;
  stop();
  stage.querySelectorAll("video").forEach(end);
  stage.replaceChildren();
  $("curve").setAttribute("hidden", "");
  open = i;
  const say = (text) => {
    const p = document.createElement("p");
    p.textContent = text;
    stage.append(p);
  };
  if (still(hit)) {
    const image = new Image();
    image.src = url("media", hit);
    image.alt = hit.name;
    stage.append(image);
  } else {
    const video = moment(hit, () => $("loop").checked, () => {
      end(video);
      const image = new Image();
      image.src = url("poster", hit);
      image.alt = "";
      stage.replaceChildren(image);
      say("This file is gone or cannot be played.");
    });
    video.controls = true;
    video.addEventListener("made", () => say("Your browser does not play this kind of file: this is a copy of the moment, without sound."));
    stage.append(video);
  }
  $("title").textContent = hit.name;
  const scored = !body.classList.contains("fresh");
  $("detail").textContent = range(hit) + (scored ? ` · score ${hit.score.toFixed(3)} · ${i + 1} of ${shown.length}` : "");
  if (!still(hit)) refine(hit, stage.querySelector("video"));
  $("before").disabled = i === 0;
  $("after").disabled = i === shown.length - 1;
  if (!player.open) {
    player.showModal();
    $("close").focus(); // not the video, whose arrow keys are its own
  } else if (!player.contains(document.activeElement) || document.activeElement.disabled) $("close").focus();
}

player.addEventListener("close", () => {
  player.querySelectorAll("video").forEach(end);
  grid.querySelectorAll("button.play")[open]?.focus();
  open = -1;
});
player.addEventListener("click", (e) => e.target === player && player.close());
$("close").onclick = () => player.close();
$("before").onclick = () => show(open - 1);
$("after").onclick = () => show(open + 1);
$("alike").onclick = () => similar(shown[open]);

// ---- the rest of the page ------------------------------------------------------------

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

function chip(want) {
  const kind = want.like ? "like" : want.picture && picture ? "picture" : "";
  $("chip").hidden = !kind;
  if (!kind) return;
  const [index, row, clip] = want.like.split(",");
  $("chip").querySelector("img").src = kind === "like" ? url("poster", { index, row, clip }) : picture.url;
  $("chip").querySelector("span").textContent = kind === "like" ? `like ${likeName || "a clip"}` : "this picture";
}

function move(key, from) {
  const tiles = [...grid.querySelectorAll("button.play")];
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const at = tiles.indexOf(from);
  if (at < 0) return tiles[0]?.focus();
  if (at + step < 0 && key === "ArrowUp") return $("words").focus();
  (tiles[at + step] || (step > 0 ? tiles.at(-1) : tiles[0])).focus();
}

document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
  const at = document.activeElement, typing = at.matches("input:not([type=checkbox], [type=file]), select");
  const arrow = e.key.startsWith("Arrow");
  if (player.open) {
    if (at.matches("video")) return;
    if (e.key === "ArrowLeft" && open > 0) show(open - 1);
    else if (e.key === "ArrowRight") show(open + 1);
    else if (e.key === "s") similar(shown[open]);
    else return;
  } else if (typing) {
    if (at === $("words") && e.key === "ArrowDown") move(e.key);
    else if (at === $("words") && e.key === "Backspace" && !at.value && !$("chip").hidden) go({ like: "", picture: false });
    else if (e.key === "Escape") at.blur();
    else return;
  } else if (e.key === "/") {
    $("words").focus();
    $("words").select();
  } else if (arrow && (at.matches("button.play") || at === body)) move(e.key, at);
  else if (e.key === "s") {
    const li = at.closest("#grid li") || grid.querySelector("li:hover");
    if (!li) return;
    similar(shown[[...grid.children].indexOf(li)]);
  } else if (e.key === "Escape") {
    stop();
    at.blur();
  } else return;
  e.preventDefault();
});

$("form").addEventListener("submit", (e) => {
  e.preventDefault();
  ask($("words").value);
});
for (const id of ["folder", "top", "rerank"]) $(id).onchange = () => go();
$("least").oninput = () => {
  history.replaceState(null, "", address());
  if (!body.classList.contains("fresh") && hits.length) draw();
};
$("chip").querySelector("button").onclick = () => {
  go({ like: "", picture: false });
  $("words").focus();
};
$("file").onchange = (e) => {
  byPicture(e.target.files[0]);
  e.target.value = "";
};
document.addEventListener("paste", (e) => {
  const file = [...e.clipboardData.files].find((f) => /^image\//.test(f.type));
  if (file) byPicture(file);
});
document.addEventListener("dragover", (e) => {
  e.preventDefault();
  $("drop").hidden = ![...e.dataTransfer.types].includes("Files");
});
document.addEventListener("dragleave", (e) => e.relatedTarget || ($("drop").hidden = true));
document.addEventListener("drop", (e) => {
  e.preventDefault();
  $("drop").hidden = true;
  byPicture(e.dataTransfer.files[0]);
});
addEventListener("hashchange", search);

try {
  info = await call("/api/info");
  $("about").textContent = `Say what happens in it, or drop a picture: ${number(info.clips)} clips of ${number(info.videos)} videos.`;
  $("model").textContent = `${number(info.clips)} clips · ${info.model}`;
  $("folders").hidden = info.folders.length < 2;
  for (const folder of info.folders) $("folder").append(new Option(folder.slice(0, -1), folder));
  $("reranks").hidden = !info.rerank;
  search();
} catch (error) {
  complain(error.message);
}
