/** commitImage and rebaseImage on files of this host: which files they take, and what they refuse before anything has changed. */
import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { expect, it } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { commitImage } from "../../../src/backing/operations/commit-image.ts"
import { rebaseImage } from "../../../src/backing/operations/rebase-image.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { sha256 } from "../../support/golden.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const SIZE = 1 << 19
const text = (image: Qcow2Image): string => new TextDecoder().decode(image.header.backingFile)

/** base.raw, and mid.qcow2 and top.qcow2 over it, with a byte of their own each. */
function makeChain(): { at: (name: string) => string; bytes: () => string[] } {
  const folder = temporaryDirectory()
  const at = (name: string): string => join(folder, name)
  writeFileSync(at("base.raw"), Buffer.alloc(SIZE, 1))
  createImage(at("mid.qcow2"), { backing: "base.raw", backingFormat: "raw" })
  createImage(at("top.qcow2"), { backing: "mid.qcow2", backingFormat: "qcow2" })
  for (const [name, byte] of [["mid.qcow2", 2], ["top.qcow2", 3]] as const) {
    const image = openImage(at(name))
    image.pwrite(Buffer.alloc(70_000, byte), byte * 70_000)
    image.close()
  }
  return { at, bytes: () => ["base.raw", "mid.qcow2", "top.qcow2"].map((name) => sha256(readFileSync(at(name)))) }
}

/** The SHA-256 of what the image reads as. */
function contentOf(path: string, snapshot?: string): string {
  const image = openImage(path, { readOnly: true, ...(snapshot === undefined ? {} : { snapshot }) })
  const content = new Uint8Array(image.size)
  image.pread(content, 0)
  image.close()
  return sha256(content)
}

it("an image is committed into its backing file, or into one further behind that is given by path or by name", async () => {
  for (const base of [undefined, "mid.qcow2", "base.raw", "PATH"]) {
    const { at } = makeChain()
    const before = contentOf(at("top.qcow2"))
    await commitImage(at("top.qcow2"), base === undefined ? {} : { base: base === "PATH" ? at("base.raw") : base })
    const committed = base === undefined || base === "mid.qcow2" ? "mid.qcow2" : "base.raw"
    expect(contentOf(at(committed))).toEqual(before)
    expect(contentOf(at("top.qcow2"))).toEqual(before)
    const top = openImage(at("top.qcow2"), { readOnly: true }) as Qcow2Image
    expect([...top.map(0, SIZE)].map(({ kind }) => kind)).toEqual(base === undefined ? ["backing"] : ["backing", "data", "backing"])
    top.close()
  }
})

it("an image is not emptied after a commit into one further behind: the images between would show", async () => {
  const { at, bytes } = makeChain()
  const before = bytes()
  const refused = commitImage(at("top.qcow2"), { base: "base.raw", keep: false })
  await expect(refused).rejects.toMatchObject({ code: "invalid-argument", message: expect.stringContaining("set keep") })
  expect(bytes()).toEqual(before)
  const content = contentOf(at("top.qcow2"))
  await commitImage(at("top.qcow2"), { base: "mid.qcow2", keep: false })
  expect([contentOf(at("top.qcow2")), contentOf(at("mid.qcow2"))]).toEqual([content, content])
})

it("QC-SNAP-06 a snapshot of an image without a backing file does not show the one that a safe rebase adds", async () => {
  const folder = temporaryDirectory()
  const [base, top] = [join(folder, "base.raw"), join(folder, "top.qcow2")]
  writeFileSync(base, Buffer.alloc(SIZE, 1))
  createImage(top, { size: SIZE })
  const image = openImage(top) as Qcow2Image
  image.snapshots.create({ name: "empty" })
  image.close()
  const before = contentOf(top)
  await rebaseImage(top, { backing: base, backingFormat: "raw" })
  expect(contentOf(top)).toBe(before)
  expect(contentOf(top, "empty")).toBe(before)
})

it("a refused commit changes nothing: another opening, no backing file, a base that is not in the chain", async () => {
  const { at, bytes } = makeChain()
  const before = bytes()
  const other = openImage(at("base.raw"), { format: "raw" })
  await expect(commitImage(at("top.qcow2"))).rejects.toMatchObject({ code: "busy" })
  other.close()
  const reader = openImage(at("mid.qcow2"), { readOnly: true })
  await expect(commitImage(at("top.qcow2"))).rejects.toMatchObject({ code: "busy" })
  reader.close()
  await expect(commitImage(at("base.raw"))).rejects.toMatchObject({ code: "invalid-format" })
  await expect(commitImage(at("top.qcow2"), { base: "else.raw" })).rejects.toThrow(/"else.raw" is not in its chain/)
  await expect(commitImage(at("top.qcow2"), { base: "top.qcow2" })).rejects.toThrow(/not in its chain/)
  await expect(commitImage(at("top.qcow2"), { rate: 0 })).rejects.toThrow(RangeError)
  expect(bytes()).toEqual(before)
  createImage(at("alone.qcow2"), { size: SIZE })
  await expect(commitImage(at("alone.qcow2"))).rejects.toThrow(/no backing file/)
})

it("an image is rebased onto another backing file, and onto none", async () => {
  const { at } = makeChain()
  const before = contentOf(at("top.qcow2"))
  await rebaseImage(at("top.qcow2"), { backing: "base.raw", backingFormat: "raw" })
  expect(contentOf(at("top.qcow2"))).toEqual(before)
  rmSync(at("mid.qcow2"))
  await rebaseImage(at("top.qcow2"), {})
  rmSync(at("base.raw"))
  expect(contentOf(at("top.qcow2"))).toEqual(before)
})

it("an unsafe rebase changes only the name, and opens no other file", async () => {
  const { at } = makeChain()
  rmSync(at("mid.qcow2"))
  await rebaseImage(at("top.qcow2"), { backing: "gone.qcow2", backingFormat: "qcow2", unsafe: true })
  await expect(async () => contentOf(at("top.qcow2"))).rejects.toThrow(/gone.qcow2/)
  await rebaseImage(at("top.qcow2"), { backing: at("base.raw"), backingFormat: "raw", unsafe: true })
  const image = openImage(at("top.qcow2"), { readOnly: true }) as Qcow2Image
  expect(text(image)).toBe(at("base.raw"))
  image.close()
  await rebaseImage(at("top.qcow2"), { unsafe: true })
  const part = Buffer.alloc(70_000)
  const alone = openImage(at("top.qcow2"), { readOnly: true })
  alone.pread(part, 210_000)
  alone.close()
  expect(sha256(part)).toBe(sha256(Buffer.alloc(70_000, 3)))
})

it("a refused rebase changes nothing: an image in its own chain, no format, another opening, a missing file", async () => {
  const { at, bytes } = makeChain()
  createImage(at("over.qcow2"), { backing: "top.qcow2", backingFormat: "qcow2" })
  const before = bytes()
  const refused = async (options: Parameters<typeof rebaseImage>[1], message: RegExp): Promise<void> => {
    await expect(rebaseImage(at("top.qcow2"), options)).rejects.toThrow(message)
    expect(bytes()).toEqual(before)
  }
  await refused({ backing: "top.qcow2", backingFormat: "qcow2" }, /in its own chain/)
  await refused({ backing: "over.qcow2", backingFormat: "qcow2" }, /in its own chain/)
  await refused({ backing: "base.raw" }, /format of the backing file "base.raw" must be given/)
  await refused({ backing: "base.raw", unsafe: true }, /must be given/)
  await refused({ backing: "", backingFormat: "raw" }, /name of the backing file is empty/)
  await refused({ backing: "gone.raw", backingFormat: "raw" }, /cannot open its new backing file/)
  await refused({ backing: "x".repeat(1024), backingFormat: "raw", unsafe: true }, /longer than 1023/)
  const other = openImage(at("top.qcow2"), { readOnly: true })
  await refused({}, /has it open/)
  await refused({ unsafe: true }, /has it open/)
  other.close()
})

it("an aborted signal stops before any change", async () => {
  const { at, bytes } = makeChain()
  const before = bytes()
  const reason = new Error("not today")
  await expect(commitImage(at("top.qcow2"), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  await expect(rebaseImage(at("top.qcow2"), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  expect(bytes()).toEqual(before)
})

it("an image with a raw data file gets no backing file, safe or unsafe: it could not be opened again", async () => {
  const { at } = makeChain()
  createImage(at("alone.qcow2"), { size: SIZE, dataFile: "alone.data", dataFileRaw: true })
  const before = readFileSync(at("alone.qcow2"))
  for (const unsafe of [false, true]) {
    const rebased = rebaseImage(at("alone.qcow2"), { backing: "base.raw", backingFormat: "raw", unsafe })
    await expect(rebased).rejects.toThrow(/raw data file holds all that the guest sees/)
  }
  expect(readFileSync(at("alone.qcow2")).equals(before)).toBe(true)
  openImage(at("alone.qcow2")).close()
})
