// The per-client timelines: one canvas per run, drawn from columns of numbers.
const OUTCOMES = ["aggregated", "discarded", "rejected", "failed", "cancelled"];
// Rare and bad outcomes are drawn last, so that no common one covers them.
const ORDER = [0, 4, 1, 2, 3];
const hidden = new Set();
const lanes = [];
const steps = [
  ...[-6, -5, -4, -3, -2, -1, 0].flatMap((e) => [1, 2, 5].map((m) => m * 10 ** e)),
  10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800,
];
const axisUnits = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"], [1e-3, "ms"]];

function axisTicks(from, to, room) {
  const raw = (to - from) / Math.max(2, room / 110);
  const step = steps.find((s) => s >= raw) || Math.ceil(raw / 604800) * 604800;
  const halves = (v) => v >= 0.5 && Math.abs(v * 2 - Math.round(v * 2)) < 1e-9;
  const [unit, name] = axisUnits.find(([u]) => to >= u && halves(step / u))
    || axisUnits.find(([u]) => to >= u) || axisUnits[4];
  let digits = 0;
  while (digits < 6 && Math.abs(Math.round((step / unit) * 10 ** digits) - (step / unit) * 10 ** digits) > 1e-6) digits += 1;
  const ticks = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-6; i += 1) {
    const v = i * step;
    ticks.push([v, v === 0 ? "0" : `${(v / unit).toFixed(digits)} ${name}`]);
  }
  return ticks;
}

class Lane {
  constructor(root, data) {
    this.data = data;
    this.canvas = root.querySelector("canvas");
    this.reset = root.querySelector("[data-reset]");
    this.tick = data.end / data.ticks;
    this.rows = data.clients.map(() => []);
    data.c.forEach((row, i) => this.rows[row].push(i));
    this.rows.forEach((row) => row.sort((a, b) => data.s[a] - data.s[b]));
    this.from = 0;
    this.to = data.end;
    this.drag = null;
    this.hover = null;
    this.listen(root);
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.canvas);
    this.draw();
  }

  get left() { return this.canvas.clientWidth < 560 ? 58 : 96; }
  get width() { return this.canvas.clientWidth - this.left - 22; }
  get rowHeight() {
    return Math.max(2, Math.min(18, Math.round(600 / Math.max(1, this.rows.length))));
  }
  get height() { return this.rows.length * this.rowHeight; }
  x(t) { return this.left + ((t - this.from) / (this.to - this.from)) * this.width; }
  time(px) { return this.from + ((px - this.left) / this.width) * (this.to - this.from); }

  zoom(from, to) {
    const least = this.data.end / 20000;
    const span = Math.min(this.data.end, Math.max(least, to - from));
    const start = Math.max(0, Math.min(this.data.end - span, from));
    const linked = document.getElementById("linked");
    for (const lane of linked && linked.checked ? lanes : [this]) {
      lane.from = Math.min(start, lane.data.end - Math.min(span, lane.data.end));
      lane.to = Math.min(lane.data.end, start + span);
      if (lane.to - lane.from < least) { lane.from = 0; lane.to = lane.data.end; }
      lane.draw();
    }
  }

  scale(factor, px = this.left + this.width / 2) {
    const at = this.time(px);
    this.zoom(at - (at - this.from) * factor, at + (this.to - at) * factor);
  }

  listen(root) {
    const c = this.canvas;
    root.querySelector("[data-in]").onclick = () => this.scale(0.5);
    root.querySelector("[data-out]").onclick = () => this.scale(2);
    this.reset.onclick = () => this.zoom(0, this.data.end);
    c.ondblclick = () => this.zoom(0, this.data.end);
    c.onpointerdown = (e) => {
      if (e.button || e.pointerType === "touch") return;
      c.setPointerCapture(e.pointerId);
      this.drag = [e.offsetX, e.offsetX];
    };
    c.onpointermove = (e) => {
      if (this.drag) { this.drag[1] = e.offsetX; this.draw(); } else this.point(e);
    };
    c.onpointerup = () => {
      const drag = this.drag;
      this.drag = null;
      if (!drag) return;
      const [a, b] = drag.slice().sort((p, q) => p - q);
      if (b - a > 4) this.zoom(this.time(a), this.time(b)); else this.draw();
    };
    c.onpointerleave = () => { this.hover = null; hideTip(); if (!this.drag) this.draw(); };
    c.addEventListener("wheel", (e) => {
      const span = this.to - this.from;
      if (e.ctrlKey || e.metaKey) this.scale(e.deltaY > 0 ? 1.2 : 1 / 1.2, e.offsetX);
      else if (Math.abs(e.deltaX) > Math.abs(e.deltaY) && span < this.data.end) {
        this.zoom(this.from + (e.deltaX / this.width) * span, this.to + (e.deltaX / this.width) * span);
      } else return;
      e.preventDefault();
    }, { passive: false });
    c.onkeydown = (e) => {
      const span = this.to - this.from;
      const move = { ArrowLeft: -0.2, ArrowRight: 0.2 }[e.key];
      if (move) this.zoom(this.from + move * span, this.to + move * span);
      else if (e.key === "+" || e.key === "=") this.scale(0.5);
      else if (e.key === "-") this.scale(2);
      else if (e.key === "Escape" || e.key === "0") this.zoom(0, this.data.end);
      else return;
      e.preventDefault();
    };
  }

  draw() {
    const c = this.canvas, ratio = window.devicePixelRatio || 1, top = 14;
    if (!c.clientWidth) return;
    const tall = top + this.height + 26;
    c.style.height = `${tall}px`;
    c.width = Math.round(c.clientWidth * ratio);
    c.height = Math.round(tall * ratio);
    const g = c.getContext("2d");
    g.scale(ratio, ratio);
    g.font = `11.5px ${getComputedStyle(c).fontFamily}`;
    this.drawAxis(g, top);
    g.save();
    g.beginPath();
    g.rect(this.left, 0, this.width, tall - 24);
    g.clip();
    this.drawCommits(g, top);
    this.drawOffline(g, top);
    if (this.data.single) this.drawTasks(g, top); else this.drawSpans(g, top);
    this.drawDrag(g, top);
    g.restore();
    this.drawNames(g, top);
    this.reset.disabled = this.from <= 0 && this.to >= this.data.end;
  }

  drawAxis(g, top) {
    const bottom = top + this.height;
    g.textAlign = "center";
    g.textBaseline = "top";
    for (const [t, label] of axisTicks(this.from, this.to, this.width)) {
      const x = Math.round(this.x(t)) + 0.5;
      g.strokeStyle = css("--grid");
      g.beginPath(); g.moveTo(x, top); g.lineTo(x, bottom); g.stroke();
      g.strokeStyle = css("--faint");
      g.beginPath(); g.moveTo(x, bottom); g.lineTo(x, bottom + 5); g.stroke();
      g.fillStyle = css("--soft");
      g.fillText(label, x, bottom + 9);
    }
    g.strokeStyle = css("--faint");
    g.beginPath(); g.moveTo(this.left, bottom + 0.5); g.lineTo(this.left + this.width, bottom + 0.5); g.stroke();
  }

  drawCommits(g, top) {
    g.fillStyle = css("--soft");
    let last = -9;
    for (const tick of this.data.commits) {
      const x = this.x(tick * this.tick);
      if (x < this.left || x > this.left + this.width || x - last < 2) continue;
      g.fillRect(x, top - 9, 1, 6);
      last = x;
    }
  }

  drawOffline(g, top) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const t = tile.getContext("2d");
    t.fillStyle = css("--offline"); t.fillRect(0, 0, 6, 6);
    t.strokeStyle = css("--stripe"); t.lineWidth = 1.2;
    t.beginPath();
    for (const k of [-6, 0, 6]) { t.moveTo(k - 1, 7); t.lineTo(k + 7, -1); }
    t.stroke();
    g.fillStyle = g.createPattern(tile, "repeat");
    for (const [row, a, b] of this.data.offline) {
      const x = this.x(a * this.tick);
      g.fillRect(x, top + row * this.rowHeight, this.x(b * this.tick) - x, this.rowHeight);
    }
  }

  bar(g, row, a, b, top, share = 1) {
    const x = Math.max(this.x(a * this.tick), this.left - 1);
    const end = Math.min(this.x(b * this.tick), this.left + this.width + 1);
    if (end < this.left || x > this.left + this.width) return;
    const pad = this.rowHeight > 8 ? 1.5 : this.rowHeight > 3 ? 0.5 : 0;
    const tall = (this.rowHeight - 2 * pad) * share;
    // A hairline between neighbors, where there is room for one.
    const gap = end - x > 4 ? 0.75 : 0;
    g.fillRect(x, top + (row + 1) * this.rowHeight - pad - tall, Math.max(end - x - gap, 0.75), tall);
  }

  drawTasks(g, top) {
    const { c, s, d, w, o } = this.data;
    if (!hidden.has("waiting")) {
      g.fillStyle = css("--waiting");
      for (let i = 0; i < c.length; i += 1) {
        if (w[i] && !hidden.has(OUTCOMES[o[i]])) this.bar(g, c[i], s[i] + d[i], s[i] + d[i] + w[i], top);
      }
    }
    for (const kind of ORDER) {
      if (hidden.has(OUTCOMES[kind])) continue;
      g.fillStyle = css(`--${OUTCOMES[kind]}`);
      for (let i = 0; i < c.length; i += 1) {
        if (o[i] === kind) this.bar(g, c[i], s[i], s[i] + d[i], top);
      }
    }
  }

  drawSpans(g, top) {
    const { c, s, d, w, n } = this.data;
    for (let i = 0; i < c.length; i += 1) {
      const all = n[i].reduce((a, b) => a + b, 0);
      let rest = 1;
      for (const kind of ORDER) {
        const share = n[i][kind] / all;
        if (share && !hidden.has(OUTCOMES[kind])) {
          g.fillStyle = css(`--${OUTCOMES[kind]}`);
          this.bar(g, c[i], s[i], s[i] + d[i], top, rest * Math.max(0.15, w[i] / 100));
        }
        rest -= share;
      }
    }
  }

  drawDrag(g, top) {
    if (!this.drag) return;
    const [a, b] = this.drag;
    g.globalAlpha = 0.16;
    g.fillStyle = css("--ink");
    g.fillRect(Math.min(a, b), top, Math.abs(b - a), this.height);
    g.globalAlpha = 1;
  }

  drawNames(g, top) {
    g.textAlign = "right";
    g.textBaseline = "middle";
    if (this.rowHeight < 14) g.font = g.font.replace("11.5px", "10.5px");
    const fit = (text) => {
      // The end of a name tells clients apart.
      let name = text;
      for (let n = text.length - 1; n > 3 && g.measureText(name).width > this.left - 12; n -= 1) {
        name = `…${text.slice(-n)}`;
      }
      return name;
    };
    const every = this.rowHeight >= 11;
    this.data.clients.forEach((name, row) => {
      const edge = row === 0 ? "fastest" : row === this.rows.length - 1 ? "slowest" : "";
      const on = this.hover && this.hover.row === row;
      if (!every && !on && !(edge && !this.near(row))) return;
      g.fillStyle = css(on ? "--ink" : "--soft");
      const y = top + (row + 0.5) * this.rowHeight;
      g.fillText(fit(every || on ? name : edge), this.left - 8, Math.max(top + 5, Math.min(y, top + this.height - 5)));
    });
  }

  near(row) { return this.hover && Math.abs(this.hover.row - row) * this.rowHeight < 14; }

  point(e) {
    const row = Math.floor((e.offsetY - 14) / this.rowHeight);
    if (row < 0 || row >= this.rows.length || e.offsetX < this.left) {
      if (this.hover) { this.hover = null; this.draw(); }
      hideTip();
      return;
    }
    if (!this.hover || this.hover.row !== row) { this.hover = { row }; this.draw(); }
    showTip(e, this.describe(row, this.find(row, e.offsetX), this.time(e.offsetX)));
  }

  find(row, px) {
    const { s, d, w, single } = this.data;
    const at = this.time(px) / this.tick;
    const slack = (2 * (this.to - this.from)) / this.width / this.tick;
    let waiting = -1;
    for (const i of this.rows[row]) {
      if (s[i] - slack > at) break;
      if (at <= s[i] + d[i] + slack) return i;
      if (single && at <= s[i] + d[i] + w[i]) waiting = i;
    }
    return waiting;
  }

  describe(row, i, time) {
    const { data: v, tick } = this;
    const name = v.clients[row];
    if (i < 0) {
      const away = v.offline.some(([r, a, b]) => r === row && time >= a * tick && time <= b * tick);
      return [element("b", name), tipRow(away ? "offline" : "idle", seconds(time))];
    }
    const from = `${seconds(v.s[i] * tick)}`;
    if (!v.single) {
      const rows = OUTCOMES.flatMap((o, k) => (v.n[i][k] ? [tipRow(o, count(v.n[i][k]), `var(--${o})`)] : []));
      return [element("b", `${name} · many tasks`), ...rows, tipRow("from", from),
        tipRow("busy", `${v.w[i]} %`), tipRow("mean staleness", String(v.y[i]))];
    }
    const outcome = OUTCOMES[v.o[i]];
    const rows = [tipRow(outcome, v.reasons[v.r[i]], `var(--${outcome})`),
      tipRow("dispatched", from), tipRow("worked", seconds(v.d[i] * tick))];
    if (v.w[i]) rows.push(tipRow("waited", seconds(v.w[i] * tick)));
    rows.push(tipRow("model version", count(v.v[i])), tipRow("staleness", count(v.y[i])),
      tipRow("local steps", count(v.k[i])));
    return [element("b", `${name} · task ${v.i[i]}`), ...rows];
  }
}

document.querySelectorAll(".lane[data-run]").forEach((root) => {
  lanes.push(new Lane(root, DATA.timelines[Number(root.dataset.run)]));
});
for (const button of document.querySelectorAll("[data-outcome]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.outcome;
    if (!hidden.delete(name)) hidden.add(name);
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    lanes.forEach((lane) => lane.draw());
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => lanes.forEach((lane) => lane.draw()));
