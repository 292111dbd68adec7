// The page of a real hub with twelve branches, in a real browser: one run, told what it is about in PAGE (JSON).
// What only the nodes' own side can do (stop a branch, change a file there) is asked for by a line on stdout and
// answered by a line on stdin. Ends with status 0 if everything was as it should be; says what wasn't.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { gunzipSync } from "node:zlib";
import { chromium } from "playwright-core";

const about = JSON.parse(process.env.PAGE);
const { url, admin, operate, images, shots, vendor, filed } = about;
const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const began = Date.now();
const say = (text) => console.log(`${((Date.now() - began) / 1000).toFixed(1)} s  ${text}`);
const has = async (what) => {
  console.log(`please: ${what}`);
  const { value } = await lines.next();
  assert.equal(value, "done", `${what}: ${value}`);
};
const api = async (method, path, body) => {
  const reply = await fetch(`${url}${path}`, {
    method,
    headers: { authorization: `Bearer ${admin}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  assert.ok(reply.ok, `${method} ${path}: ${reply.status} ${await reply.clone().text()}`);
  return reply.json();
};

const browser = await chromium.launch({
  executablePath: about.chromium,
  headless: true,
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
const complaints = [];
const context = async (options = {}) => {
  const made = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  made.setDefaultTimeout(20_000);
  made.on("page", (page) => {
    page.on("console", (message) => {
      if (message.type() === "error" && !/status of 40[149]/.test(message.text())) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => {
      const to = request.url();
      if (![url, filed.url, "data:"].some((own) => to.startsWith(own))) complaints.push(`asked ${to}`);
    });
  });
  return made;
};
const login = async (page, token, at = url) => {
  await page.goto(`${at}/login`);
  await page.fill("#token", token);
  await Promise.all([page.waitForURL(`${at}/`), page.keyboard.press("Enter")]);
};
const cell = (page, image, node) => {
  const row = page.locator("table.matrix tbody tr").filter({ has: page.getByRole("link", { name: image, exact: true }) });
  return row.locator("td.cell").filter({ has: page.locator(`.at:text-is("${node}")`) });
};
const until = async (what, met, limit = 20_000) => {
  const start = Date.now();
  for (;;) {
    const last = await met();
    if (last) return last;
    assert.ok(Date.now() - start < limit, `never: ${what}`);
    await new Promise((go) => setTimeout(go, 60));
  }
};

// What others wrote is what they published, and compressed is the same.
const vendored = () => {
  const listed = readFileSync(`${vendor}/README.md`, "utf8");
  for (const name of ["htmx.min.js", "uPlot.iife.min.js", "uPlot.min.css"]) {
    const plain = readFileSync(`${vendor}/${name}`);
    assert.ok(gunzipSync(readFileSync(`${vendor}/${name}.gz`)).equals(plain), `${name}.gz is another file`);
    assert.ok(listed.includes(createHash("sha256").update(plain).digest("hex")), `${name}: README.md has another hash`);
  }
  say("vendored files are those that README.md lists");
};

const faults = async (page, name) => {
  await page.evaluate(axeSource);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const grave = found.violations.filter((one) => one.impact === "serious" || one.impact === "critical");
  const told = grave.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join("; ")}`);
  assert.deepEqual(told, [], `axe on ${name}`);
  const rest = found.violations.map((one) => one.id);
  say(`axe: ${name} has no serious fault${rest.length ? `; lesser: ${rest}` : ""}`);
};

const budget = async () => {
  const fresh = await context({ extraHTTPHeaders: { authorization: `Bearer ${admin}` } });
  const cold = await fresh.newPage();
  const wire = await fresh.newCDPSession(cold);
  await wire.send("Network.enable");
  let bytes = 0;
  const started = new Map();
  wire.on("Network.requestWillBeSent", ({ requestId, request, initiator }) => started.set(requestId, { at: request.url, by: initiator.type }));
  wire.on("Network.loadingFinished", ({ encodedDataLength }) => (bytes += encodedDataLength));
  await cold.goto(`${url}/`, { waitUntil: "load" });
  // All that the first screen needs is named by the document itself: one round trip behind it.
  const needed = [...started.values()].filter(({ at }) => at.includes("/assets/"));
  for (const { at, by } of needed) assert.equal(by, "parser", at);
  const sum = bytes;
  assert.ok(sum > 10_000 && sum < 150_000, `${sum} bytes`);
  say(`the first screen of twelve branches: ${sum} bytes on the wire, ${needed.length} files, one round trip after the document`);
  await fresh.close();
};

// From the login to a promotion without a pointer.
const keyboard = async () => {
  const made = await context();
  const page = await made.newPage();
  await page.goto(`${url}/health`);
  assert.match(page.url(), /\/login\?next=%2Fhealth$/);
  assert.equal(await page.evaluate(() => document.activeElement.id), "token");
  await page.keyboard.type(operate);
  await Promise.all([page.waitForURL(`${url}/health`), page.keyboard.press("Enter")]);
  await page.goto(`${url}/`);
  const reach = async (wanted, limit = 120) => {
    for (let step = 0; step < limit; step += 1) {
      await page.keyboard.press("Tab");
      const seen = await page.evaluate(() => {
        const one = document.activeElement;
        const style = getComputedStyle(one);
        return { id: one.id, text: one.textContent.trim(), href: one.getAttribute("href"), outlined: style.outlineStyle !== "none" };
      });
      assert.ok(seen.outlined, `the focus can't be seen on ${JSON.stringify(seen)}`);
      if (wanted(seen)) return seen;
    }
    return assert.fail("never reached");
  };
  const first = await reach(({ href }) => href === "#main");
  assert.equal(first.text, "Skip to the content");
  await page.keyboard.press("Enter");
  const box = await reach(({ id }) => id === "matrix-box");
  assert.ok(box);
  const button = await reach(({ text }) => text === "Promote @1");
  // It stays where it is while the screen is fetched anew around it.
  await Promise.all([
    page.waitForResponse((reply) => reply.url().includes("part=live")),
    page.evaluate(() => htmx.trigger("#live", "refresh")),
  ]);
  await page.waitForTimeout(200);
  assert.equal(await page.evaluate(() => document.activeElement.id), button.id);
  await Promise.all([page.waitForURL(/done=promoted/), page.keyboard.press("Enter")]);
  assert.equal(await page.locator(".flash").textContent(), "Promoted. All members are told.");
  assert.match(await page.locator(".answer").textContent(), /Promoted/);
  say("login and promotion by keyboard alone");
  await made.close();
};

// A transfer is watched; nobody reloads anything.
const live = async (page) => {
  await page.goto(`${url}/`);
  await page.waitForSelector("html[data-following]");
  await page.evaluate(() => (window.untouched = true));
  const here = cell(page, about.watched, "branch-02");
  assert.match(await here.textContent(), /OK/);
  await api("PUT", "/api/v1/limit", { peer: "branch-02", bits_per_second: 24_000_000 });
  writeFileSync(`${images}/${about.watched}`, Buffer.concat([readFileSync(`${images}/${about.watched}`), noise(40_000_000)]));
  await api("POST", `/api/v1/images/vdisks/${about.watched}/publish`);
  const seen = [];
  await until("the cell goes up", async () => {
    const percent = /^(\d+) %$/.exec(await here.locator(".word").textContent());
    if (percent && seen.at(-1) !== Number(percent[1])) seen.push(Number(percent[1]));
    return seen.filter((one) => one > 0).length >= 2;
  }, 60_000);
  assert.deepEqual(seen, [...seen].sort((a, b) => a - b), "it goes up");
  assert.equal(await here.locator("progress").count(), 1);
  assert.match(await page.locator("#answer-head").textContent(), /may be promoted|Not yet/);
  // It shall still be on its way when pictures are taken.
  await api("PUT", "/api/v1/limit", { peer: "branch-02", bits_per_second: 300_000 });
  return seen;
};
const arrived = async (page, seen) => {
  const here = cell(page, about.watched, "branch-02");
  await api("DELETE", "/api/v1/limit?peer=branch-02");
  await until("it is verified", async () => /OK/.test(await here.textContent()), 150_000);
  assert.equal(await page.evaluate(() => window.untouched), true, "the page was loaded anew");
  say(`the matrix followed a transfer by itself: ${seen.join(" %, ")} %, OK`);
};
const noise = (bytes) => {
  const out = Buffer.alloc(bytes);
  for (let at = 0, block = Buffer.from(String(Math.random())); at < bytes; at += block.length) {
    block = createHash("sha512").update(block).digest();
    block.copy(out, at);
  }
  return out;
};

const pausing = async (page) => {
  await page.goto(`${url}/`);
  await page.selectOption("#pause-peer", "branch-04");
  await Promise.all([page.waitForURL(/done=paused/), page.click("#pause-do")]);
  assert.match(await page.locator(".order").textContent(), /Paused: everything for branch-04/);
  await Promise.all([page.waitForURL(/done=resumed/), page.click("#resume-1")]);
  assert.equal(await page.locator(".order").count(), 0);
  const orders = await api("GET", "/api/v1/orders");
  assert.deepEqual(orders.orders, []);
  say("pause and its end by the form");
};

const without = async () => {
  const made = await context({ javaScriptEnabled: false });
  const page = await made.newPage();
  await login(page, operate);
  assert.ok((await page.locator("table.matrix tbody tr").count()) >= 5);
  await Promise.all([page.waitForURL(/done=paused/), page.click("#pause-do")]);
  assert.match(await page.locator(".order").textContent(), /Paused: everything/);
  await Promise.all([page.waitForURL(/done=resumed/), page.click("#resume-1")]);
  for (const path of ["/peers", "/peers/branch-01", "/health", `/images/vdisks/${about.watched}?plan=branch-01`]) {
    const reply = await page.goto(`${url}${path}`);
    assert.equal(reply.status(), 200, path);
  }
  assert.match(await page.locator("#plan-head + p").textContent(), /To branch-01/);
  await Promise.all([page.waitForURL(/\/login$/), page.click("#logout")]);
  assert.equal((await page.goto(`${url}/`)).url(), `${url}/login`);
  say("without JavaScript: login, overview, pause, plan, logout");
  await made.close();
};

// What was painted is in the file, with what else stands there, and in force.
const written = async (day, hours, rate) => {
  const schedule = `${filed.url}/api/v1/schedules/branch-night`;
  const reply = await fetch(schedule, { headers: { authorization: `Bearer ${filed.admin}` } });
  const [{ grid, rules }] = (await reply.json()).schedules;
  for (const hour of hours) assert.equal(grid[day][hour], rate, `day ${day}, ${hour}:00`);
  assert.deepEqual(rules.at(-1).dates, ["2026-12-24..2026-12-26"], "what no grid can say stays");
  const text = readFileSync(filed.file, "utf8");
  for (const kept of ["# Agreed with the branch in March.\n", "# where they are\n", "# Nobody is there at Christmas.\n"]) {
    assert.ok(text.includes(kept), `${kept} is gone from ${text}`);
  }
};
const saved = async (page, act) => {
  await Promise.all([page.waitForURL(/done=scheduled/), act()]);
  assert.equal(await page.locator(".flash").textContent(), "Saved in the configuration file, and in force.");
};

// The week of a schedule: painted by keys, by a pointer, and as a plain form.
const painting = async () => {
  const made = await context();
  const page = await made.newPage();
  await login(page, filed.admin, filed.url);
  const open = async (on) => {
    await on.goto(`${filed.url}/schedules/branch-night`);
    await on.waitForSelector(".week.painting");
  };
  await open(page);
  const focused = () => page.evaluate(() => document.activeElement.name ?? "");
  for (let step = 0; !/^c\d/.test(await focused()); step += 1) {
    assert.ok(step < 80, "the grid is never reached by the tabulator");
    await page.keyboard.press("Tab");
  }
  assert.equal(await focused(), "c000");
  // 1: 5 Mbit/s, 2: 200 Mbit/s, 3: pause, 4: unlimited.
  for (const key of ["ArrowRight", "ArrowRight", "3", "ArrowDown", "3", "ArrowUp", "ArrowLeft"]) await page.keyboard.press(key);
  assert.equal(await focused(), "c001");
  await page.focus("#save");
  await saved(page, () => page.keyboard.press("Enter"));
  await written(0, [2], "pause");
  await written(1, [2], "pause");
  await open(page);
  await page.getByRole("button", { name: "Paint with rate 3" }).click();
  const middle = async (name) => {
    const { x, y, width, height } = await page.locator(`[name=${name}]`).boundingBox();
    return [x + width / 2, y + height / 2];
  };
  await page.mouse.move(...(await middle("c510")));
  await page.mouse.down();
  for (let hour = 10; hour <= 15; hour += 1) await page.mouse.move(...(await middle(`c5${hour}`)), { steps: 3 });
  await page.mouse.up();
  await page.mouse.move(...(await middle("c518")));
  assert.equal(await page.inputValue("[name=c518]"), await page.inputValue("[name=c519]"), "it paints with the button up");
  await page.getByRole("button", { name: "Paint with rate 1", exact: true }).click();
  await page.getByRole("button", { name: "Paint all of Sunday" }).click();
  const slowest = await page.inputValue("#r1");
  await saved(page, () => page.click("#save"));
  await written(6, [0, 12, 23], slowest);
  await written(5, [10, 11, 12, 13, 14, 15], "200 Mbit/s");
  await made.close();
  const still = await context({ javaScriptEnabled: false });
  const plain = await still.newPage();
  await login(plain, filed.admin, filed.url);
  await plain.goto(`${filed.url}/schedules/branch-night`);
  await plain.fill("[name=c420]", "2");
  const second = await plain.inputValue("#r2");
  await saved(plain, () => plain.click("#save"));
  await written(4, [20], second);
  await still.close();
  say("a schedule painted by keys, by a pointer, and without JavaScript; its file keeps its comments");
};

// One image's course: a bar for each generation, and the same for spreadsheets.
const course = async () => {
  const path = `/history/vdisks/${about.aged}`;
  const made = await context({ acceptDownloads: true });
  const page = await made.newPage();
  await login(page, operate);
  await page.goto(`${url}/history`);
  assert.ok((await page.locator("table.stacked tbody tr").count()) >= about.generations);
  await page.goto(`${url}${path}`);
  await page.waitForFunction(() => document.querySelectorAll(".canvas.drawn canvas").length === 2);
  const bars = await page.evaluate(() => [...document.querySelectorAll("[data-plot]")].map((box) => JSON.parse(box.dataset.plot).labels));
  const all = Array.from({ length: about.generations }, (_, at) => `@${at + 1}`);
  assert.deepEqual(bars, [all.slice(1), all]);
  const drawn = await page.locator(".canvas svg path.backlog").evaluateAll((paths) => paths.map((one) => one.getAttribute("d").split("M").length - 1));
  assert.deepEqual(drawn, [about.generations - 1, about.generations]);
  assert.match(await page.locator(".plot figcaption").first().textContent(), /without @1, of which all was new/);
  await page.locator(".canvas").first().hover();
  assert.match(await page.locator(".canvas .max:visible").first().textContent(), /^@\d+ {2}changed /);
  assert.equal(await page.locator("table.stacked tbody tr").count(), about.generations);
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "as CSV" }).click()]);
  const lines = readFileSync(await file.path(), "utf8").trim().split("\r\n");
  assert.deepEqual(lines.map((line) => line.split(",")[0]), ["generation", ...all.map((one) => one.slice(1)).reverse()]);
  await made.close();
  say(`the history of ${about.generations} generations, drawn and as CSV`);
};

// Name, address, and whether it is looked at in all four ways or in two.
const screens = [
  ["overview", "/", true],
  ["image", `/images/vdisks/${about.watched}`],
  ["peers", "/peers"],
  ["peer", "/peers/branch-02"],
  ["health", "/health"],
  ["schedules", "/schedules"],
  ["schedule", "/schedules/branch-night"],
  ["history", "/history"],
  ["history-image", `/history/vdisks/${about.aged}`, true],
  ["grid", `${filed.url}/schedules/branch-night`, true],
  ["adoption", `${filed.url}/health`],
];
const pictures = async () => {
  mkdirSync(shots, { recursive: true });
  const ways = [[1280, "light"], [390, "dark"], [1280, "dark"], [390, "light"]];
  for (const [at, [width, colorScheme]] of ways.entries()) {
    const phone = width === 390;
    const made = await context({ viewport: { width, height: phone ? 844 : 860 }, colorScheme, isMobile: phone, hasTouch: phone });
    const page = await made.newPage();
    await login(page, filed.admin, filed.url);
    await login(page, operate);
    for (const [name, path] of screens.filter(([, , always]) => at < 2 || always)) {
      await page.goto(path.startsWith("http") ? path : `${url}${path}`);
      await page.waitForFunction(() => !document.querySelector(".canvas[data-plot]:not(.drawn)"));
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${name} at ${width} is ${over} pixels too wide`);
      await page.screenshot({ path: `${shots}/${name}-${width}-${colorScheme}.png`, fullPage: true });
      await faults(page, `${name} at ${width}, ${colorScheme}`);
    }
    await made.close();
  }
  say(`pictures in ${shots}`);
};

try {
  vendored();
  await budget();
  await keyboard();
  const made = await context();
  const page = await made.newPage();
  await page.goto(`${url}/login`);
  await faults(page, "login");
  await login(page, operate);
  await pausing(page);
  await without();
  await course();
  await painting();
  const seen = await live(page);
  await has("trouble");
  await pictures();
  await page.goto(`${url}/`);
  await page.evaluate(() => (window.untouched = true));
  await arrived(page, seen);
  await made.close();
  assert.deepEqual(complaints, [], "the browser complained");
  say("done");
} catch (error) {
  console.log(String(error.stack ?? error));
  process.exitCode = 1;
} finally {
  await browser.close();
  process.stdin.destroy();
}
