/**
 * `tsx test/package/pages.ts TARBALL FOLDER`: the packed package in a page, built by esbuild, Vite and webpack without a flag, and loaded
 * as plain modules, each in headless Chromium. The bundlers come from the npm registry into FOLDER.
 */
import { execFileSync } from "node:child_process"
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { Chromium } from "../browser/chromium.ts"
import { PageServer } from "../browser/server.ts"

const BUNDLERS = ["esbuild@0.28", "vite@8", "webpack@5", "webpack-cli@7"]

interface Build {
  readonly name: string
  /** The command, run in a folder with page.mjs and index.html; undefined where nothing is built. */
  readonly command: readonly string[] | undefined
  /** What the page loads. */
  readonly script: string
  /** The folder to serve. */
  readonly folder: string
}

const BUILDS: readonly Build[] = [
  { name: "esbuild", command: ["esbuild", "page.mjs", "--bundle", "--outdir=out"], script: "out/page.js", folder: "." },
  { name: "webpack", command: ["webpack", "--entry", "./page.mjs"], script: "dist/main.js", folder: "." },
  { name: "vite", command: ["vite", "build"], script: "page.mjs", folder: "dist" },
  { name: "plain modules", command: undefined, script: "page.mjs", folder: "." },
]

const [, , tarball, folder] = process.argv
if (tarball === undefined || folder === undefined) throw new Error("name the package's tarball, and an empty folder to work in")

run("npm", ["init", "-y"])
run("npm", ["install", "--silent", "--no-audit", "--no-fund", resolve(tarball), ...BUNDLERS])
const browser = await Chromium.launch()
try {
  const names = new Set<string>()
  for (const build of BUILDS) names.add(await load(build, join(folder, build.name)))
  if (names.size !== 1) throw new Error(`the builds differ in the names that they export: ${[...names].join(" | ")}`)
} finally {
  await browser.close()
}

/** Builds, loads the result in a page, and returns the names that the package exports there. */
async function load(build: Build, place: string): Promise<string> {
  mkdirSync(place)
  copyFileSync(resolve("test/package/page.mjs"), join(place, "page.mjs"))
  const map = build.command === undefined ? '<script type="importmap">{"imports":{"vioblk":"/vioblk/browser.js"}}</script>' : ""
  writeFileSync(
    join(place, "index.html"),
    `<!doctype html>${map}<link rel="icon" href="data:,"><script type="module" src="/${build.script}"></script>`,
  )
  if (build.command !== undefined) run("npx", ["--no-install", ...build.command], place)
  const served = join(place, build.folder)
  if (build.command !== undefined) refuseNode(served)
  const server = await PageServer.start({ mounts: [["/vioblk/", join(folder ?? "", "node_modules/vioblk/dist")], ["/", served]] })
  const page = await browser.open(`${server.origin}/`)
  const outcome = String(await page.evaluate("outcome"))
  if (page.errors.length > 0) throw new Error(`${build.name}: the page reports ${page.errors.join("; ")}`)
  await page.close()
  await server.close()
  console.log(`page: ok with ${build.name}`)
  return outcome
}

/** @throws Error when a script that was built names a module of Node */
function refuseNode(place: string): void {
  const scripts = readdirSync(place, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".js"))
  if (scripts.length === 0) throw new Error(`${place}: nothing was built`)
  for (const name of scripts) {
    if (/["'`]node:/.test(readFileSync(join(place, name), "utf8"))) throw new Error(`${place}/${name} names a module of Node`)
  }
}

function run(command: string, words: readonly string[], place = folder): void {
  execFileSync(command, words, { cwd: place, stdio: ["ignore", "ignore", "inherit"] })
}
