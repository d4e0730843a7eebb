/** What a source of somebody else throws may be anything: it becomes one `io` error with that as its cause. */
import { describe, expect, it } from "vitest"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { blobFile } from "../../../src/backing/sources/blob-file.ts"
import { httpFile } from "../../../src/backing/sources/http/http-file.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng } from "../../support/rng.ts"
import { LateFile, type LateCall } from "./late-file.ts"

const THROWN: readonly (readonly [string, unknown, string])[] = [
  ["an error", new Error("out of order"), "out of order"],
  ["an object without a prototype", Object.create(null), "an object"],
  ["an error whose message is a symbol", Object.assign(new Error(), { message: Symbol("m") }), "Error"],
  ["a symbol", Symbol("s"), "Symbol(s)"],
  ["nothing", undefined, "undefined"],
  ["a string", "broken", "broken"],
  ["an object whose toString throws", { toString: () => { throw new Error("no") } }, "an object"],
]

describe.each(THROWN)("%s", (_, thrown, text) => {
  const failure = { code: "io", cause: thrown, message: expect.stringContaining(text) }

  it.each<LateCall>(["size", "read"])("thrown by %s", async (at) => {
    const source = new LateFile(MemoryFile.of(new Uint8Array(65_536)), new Rng(1))
    const fail = (): Promise<never> => Promise.reject(thrown)
    const disk = openDisk(Object.assign(source, { [at]: fail, ...(at === "read" ? { readScattered: fail } : {}) }), { format: "raw" })
    await expect(disk.then((opened) => opened.pread(new Uint8Array(512), 0))).rejects.toMatchObject(failure)
  })

  it("thrown by sync", async () => {
    const source = Object.assign(new LateFile(MemoryFile.of(new Uint8Array(65_536)), new Rng(1)), { sync: () => Promise.reject(thrown) })
    const disk = await openDisk(source, { format: "raw" })
    await disk.pwrite(new Uint8Array(512), 0)
    // The log wraps what it was told.
    await expect(disk.flush?.()).rejects.toMatchObject({ code: "io", cause: failure })
  })

  it("thrown by fetch and by a Blob", async () => {
    const file = httpFile("http://host/disk", { retries: 0, fetch: () => Promise.reject(thrown) })
    await expect(file.size()).rejects.toMatchObject({ code: "io", message: failure.message })
    const blob = blobFile({ size: 512, slice: () => ({ arrayBuffer: () => Promise.reject(thrown) }) })
    await expect(blob.read(new Uint8Array(512), 0)).rejects.toMatchObject(failure)
  })
})
