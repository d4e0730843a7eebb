/** The commands io, dd and bench by themselves: what they refuse, and what they print. test/interop/qemu-img compares them with QEMU's. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { histogramLines } from "../../../src/vmm/cli/commands/bench.ts"
import { commandLine } from "../../support/command-line.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

function rawImage(bytes: number): string {
  const path = join(temporaryDirectory(), "disk.raw")
  writeFileSync(path, Uint8Array.from({ length: bytes }, (_, at) => at % 251))
  return path
}

describe("vioblk io", () => {
  it("prints the result of each line, and fails if one fails", async () => {
    const path = rawImage(4096)
    const { code, out, err } = await commandLine(
      "io", "-f", "raw", "-c", "write -P 9 512 512", "-c", "read -P 9 512 512", "-c", "read -P 8 512 512", path,
    )
    expect({ code, err }).toEqual({ code: 1, err: "" })
    expect(out.split("\n").filter((line) => !line.includes("ops"))).toEqual([
      "wrote 512/512 bytes at offset 512", "read 512/512 bytes at offset 512", "Pattern verification failed at offset 512, 512 bytes",
      "read 512/512 bytes at offset 512", "",
    ])
  })

  it.each([
    ["frobnicate", 'command "frobnicate" not found; "help" lists them'],
    ["read -y 0 1", "read has no option -y: read [-qv] [-P pattern [-s off] [-l len]] off len"],
    ["read 0", "read needs an offset and a length"],
    ["read -P", "read -P needs a value"],
    ["write -P 300 0 1", "-P 300: it must be a byte, 0 to 255"],
    ["read 4095 2", "read failed: byte 4095 and 2 more are beyond the disk's end at 4096"],
    ...["-1", "NaN", "1e999", "0.5", "2147483648"].map(
      (word) => [`sleep ${word}`, `sleep ${word}: it must be a whole number from 0 to 2147483647`],
    ),
    ["write -c 0 512", "write -c: a raw image has no compressed clusters"],
  ])("%s", async (line, message) => {
    expect(await commandLine("io", "-f", "raw", "-c", line, rawImage(4096))).toEqual({ code: 1, out: `${message}\n`, err: "" })
  })
})

describe("vioblk dd", () => {
  it("copies blocks into a new image, and refuses an existing one", async () => {
    const path = rawImage(8192)
    const copy = `${path}.copy`
    expect(
      await commandLine("dd", "bs=1k", "skip=2", "count=3", `if=${path}`, "-f", "raw", `of=${copy}`),
    ).toEqual({ code: 0, out: "", err: "" })
    expect(readFileSync(copy).equals(readFileSync(path).subarray(2048, 5120))).toBe(true)
    expect(await commandLine("dd", "-f", "raw", `if=${path}`, `of=${path}`)).toMatchObject({ code: 1 })
    expect(readFileSync(path)).toHaveLength(8192)
  })

  it.each([["bs=0"], ["bs=lots"], ["count=x"], ["foo=1"], ["foo"]])("refuses %s", async (word) => {
    const path = rawImage(512)
    expect(
      await commandLine("dd", word, `if=${path}`, `of=${path}.copy`),
    ).toMatchObject({ code: 1, err: expect.stringMatching(/^vioblk: [^\n]+\n$/) })
    expect(existsSync(`${path}.copy`)).toBe(false)
  })
})

describe("vioblk bench", () => {
  it("makes requests and prints their time", async () => {
    const path = rawImage(1 << 16)
    const { code, out } = await commandLine("bench", "-f", "raw", "-c", "100", "--picture", path)
    expect(code).toBe(0)
    expect(out).toMatch(
      /^Sending 100 read requests, 4096 bytes each, .*\nRun completed in .*\n.* requests\/s, .*\nLatency: median .*\n( .*[#█].*\n)+/,
    )
    const { requests, latency } = JSON.parse((await commandLine("bench", "-f", "raw", "-c", "10", "--json", path)).out)
    expect([requests, Object.keys(latency)]).toEqual([10, ["median-ms", "p99-ms", "max-ms"]])
  })

  it.each(["0", "-1", "NaN", "1e999", "9007199254740993", ""])("refuses --count=%s, in one line", async (count) => {
    const { code, out, err } = await commandLine("bench", `--count=${count}`, rawImage(1 << 16))
    expect({ code, out, err }).toEqual({
      code: 1, out: "", err: `vioblk: --count ${count}: it must be a whole number from 1 to 2147483647; see vioblk bench --help\n`,
    })
  })

  it("writes only with -w", async () => {
    const path = rawImage(1 << 16)
    const before = readFileSync(path)
    await commandLine("bench", "-q", "-f", "raw", "-c", "10", path)
    expect(readFileSync(path).equals(before)).toBe(true)
    await commandLine("bench", "-q", "-f", "raw", "-c", "10", "-w", "--pattern", "7", path)
    expect(readFileSync(path).subarray(0, 40960).every((byte) => byte === 7)).toBe(true)
  })

  it.each([10, 50, 80, 200])("draws a picture within %i columns, which shows even a single request", (columns) => {
    const lines = histogramLines(new Map([[0, 1], [1, 1_000_000], [4, 30]]), { columns, hasColours: false, isUnicode: true })
    expect(lines).toHaveLength(5)
    for (const line of lines) expect(line.length).toBeLessThan(columns)
    if (columns >= 50) expect(lines.map((line) => line.includes("█"))).toEqual([true, true, false, false, true])
  })
})
