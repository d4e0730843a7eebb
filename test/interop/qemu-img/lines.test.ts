/**
 * The same command lines through qemu-img and through us, on copies of the same images: exit codes, JSON, which files there are afterwards,
 * and what is in them.
 */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { commandLine } from "../../support/command-line.ts"
import { hasQemu, qemuCheck, qemuImg, runQemu } from "../../support/qemu.ts"
import { copyFixtures, makeFixtures, removeFolder, stateOf } from "./fixtures.ts"
import { CHANGE_LINES } from "./change-lines.ts"
import { ENCRYPTED_LINES } from "./encrypted-lines.ts"
import { IMAGE_LINES } from "./image-lines.ts"
import { type Line, wordsOf } from "./line.ts"

const LINES: readonly Line[] = [...IMAGE_LINES, ...CHANGE_LINES, ...ENCRYPTED_LINES]

let fixtures = ""
const here = process.cwd()
beforeAll(() => void (fixtures = hasQemu ? makeFixtures() : ""), 120_000)
afterAll(() => {
  process.chdir(here)
  if (fixtures !== "") removeFolder(fixtures)
})

interface Outcome {
  readonly code: number
  readonly out: string
  readonly err: string
}

async function ours(folder: string, words: readonly string[]): Promise<Outcome> {
  process.chdir(folder)
  try {
    return await commandLine(...words)
  } finally {
    process.chdir(here)
  }
}

function theirs(folder: string, words: readonly string[]): Outcome {
  const { status, stdout, stderr } = runQemu("qemu-img", words, { cwd: folder })
  return { code: status ?? -1, out: stdout, err: stderr }
}

/** The JSON in what was printed; undefined where there is none. */
function valuesOf({ out }: Outcome): unknown {
  const begin = out.search(/[{[]/)
  return begin < 0 ? undefined : JSON.parse(out.slice(begin))
}

/** What of `mine` has a counterpart in `yours`: we may say more than qemu-img, and nothing else. Times and identifiers differ. */
function common(mine: unknown, yours: unknown): unknown {
  if (Array.isArray(mine) && Array.isArray(yours)) return mine.map((value: unknown, index) => common(value, yours[index]))
  if (typeof mine !== "object" || mine === null || typeof yours !== "object" || yours === null) return mine
  return Object.fromEntries(
    Object.entries(mine).flatMap(([key, value]) => (Object.hasOwn(yours, key) ? [[key, common(value, Reflect.get(yours, key))]] : [])),
  )
}

/** What it prints is for people, and ours is the same. */
function isText(line: string): boolean {
  return /^(info|snapshot -l|snapshot .* -l) /.test(line) && !/json|--backing-chain| -h|--help/.test(line)
}

/** "qcow2", "luks", or "raw" for anything else. */
function formatOf(bytes: Buffer): string {
  const begin = bytes.subarray(0, 4).toString("latin1")
  return begin === "QFI\xfb" ? "qcow2" : begin === "LUKS" ? "luks" : "raw"
}

/** What qemu-img says of an image but for its place, times, and what is as fast as the machine: iterations of key derivation. */
function factsOf(path: string): unknown {
  const text = qemuImg("info", "-U", "--output=json", path).replace(/"(master-key-)?iters": \d+/g, '"$1iters": "some"')
  const { "actual-size": _, filename: _name, "full-backing-filename": _full, snapshots, ...rest } = JSON.parse(text)
  const names = Array.isArray(snapshots) ? snapshots.map(({ id, name }: { id: string; name: string }) => [id, name]) : []
  return { ...rest, snapshots: names }
}

/** Files with the same content to a guest, or to the byte. */
function expectSameFile(mine: string, yours: string): void {
  const [a, b] = [readFileSync(mine), readFileSync(yours)]
  if (a.equals(b)) return
  expect([formatOf(a), formatOf(b)], "neither is raw where they differ").toEqual([expect.not.stringMatching("raw"), formatOf(a)])
  expect(factsOf(mine)).toEqual(factsOf(yours))
  expect(qemuCheck(mine).exitCode).toBe(qemuCheck(yours).exitCode)
  const { status, stdout, stderr } = spawnSync("qemu-img", ["compare", mine, yours], { encoding: "utf8" })
  if (!/Could not open/.test(stderr)) expect([status, stdout]).toEqual([0, expect.any(String)])
}

describe.runIf(hasQemu || process.env["CI"] !== undefined)("qemu-img and vioblk", { timeout: 120_000 }, () => {
  it("are compared by more than 300 command lines, each of which comes once", () => {
    expect(new Set(LINES.map(({ line }) => line)).size).toBe(LINES.length)
    expect(LINES.length).toBeGreaterThanOrEqual(300)
  })

  it.each(
    LINES.map((entry) => [entry.line, entry] as const),
  )("%s", async (_title, { line, differs }) => {
    const words = wordsOf(line)
    const folders = [copyFixtures(fixtures, words), copyFixtures(fixtures, words)] as const
    try {
      const before = stateOf(folders[0])
      const [mine, yours] = [await ours(folders[0], words), theirs(folders[1], words)]
      if (differs !== undefined) {
        expect({ code: mine.code }, differs.why).toEqual({ code: differs.code })
        return
      }
      expect({ code: mine.code, err: mine.err }, yours.err).toEqual({ code: yours.code, err: expect.any(String) })
      // One line, whatever is wrong; that two images differ is nothing wrong.
      if (mine.code === 1 && (mine.err !== "" || !line.startsWith("compare "))) expect(mine.err).toMatch(/^vioblk: [^\n]+\n$/)
      if (/json/.test(line) && yours.code !== 1) expect(common(valuesOf(mine), valuesOf(yours))).toEqual(valuesOf(yours))
      if (isText(line) && yours.code === 0) expect(mine.out).toBe(yours.out)
      const after = [stateOf(folders[0]), stateOf(folders[1])] as const
      // What qemu-img leaves behind of an image that it could not make is not wanted.
      if (yours.code === 0 || yours.code === 3) expect([...after[0].keys()].sort()).toEqual([...after[1].keys()].sort())
      else expect([...after[0].keys()].sort()).toEqual([...before.keys()].sort())
      for (const [name, time] of after[0]) if (before.get(name) !== time) expectSameFile(join(folders[0], name), join(folders[1], name))
    } finally {
      for (const folder of folders) removeFolder(folder)
    }
  })
})
