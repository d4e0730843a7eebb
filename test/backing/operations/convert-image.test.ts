/** Converting by path, and the commands convert, compare and measure: a temporary name, what is refused, and what stays as it was. */
import {
  copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { createImage } from "../../../src/backing/create.ts"
import { writeReplacing } from "../../../src/backing/host/replaced-file.ts"
import { openImage } from "../../../src/backing/open.ts"
import { convertImage } from "../../../src/backing/operations/convert/convert-image.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { commandLine } from "../../support/command-line.ts"
import { Rng } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const SIZE = 1 << 20

/** A raw image, half of it data. */
function source(folder: string): { readonly path: string; readonly content: Buffer } {
  const content = Buffer.alloc(SIZE)
  content.set(new Rng(9).bytes(SIZE / 2), 1000)
  writeFileSync(join(folder, "source.raw"), content)
  return { path: join(folder, "source.raw"), content }
}

function contentOf(path: string): Buffer {
  const disk = openImage(path, { readOnly: true })
  const content = Buffer.alloc(disk.size)
  disk.pread(content, 0)
  disk.close()
  return content
}

describe("convertImage", () => {
  it("makes an image with the same content, by default qcow2, and leaves no other file", async () => {
    const folder = temporaryDirectory()
    const { path, content } = source(folder)
    const [plain, small, back] = ["plain.qcow2", "small.qcow2", "back.raw"].map((name) => join(folder, name))
    if (plain === undefined || small === undefined || back === undefined) throw new Error("three names")
    await convertImage(path, plain, { source: { format: "raw" }, clusterSize: 4096 })
    await convertImage(plain, small, { compressed: true, size: 2 * SIZE })
    await convertImage(small, back, { format: "raw" })
    const encryption = { passphrase: "secret", iterTime: 1 }
    const refused = convertImage(plain, join(folder, "both.qcow2"), { compressed: true, encryption })
    await expect(refused).rejects.toMatchObject({ code: "invalid-argument", message: expect.stringContaining("cannot be encrypted") })
    expect(contentOf(plain).equals(content)).toBe(true)
    expect(contentOf(small).equals(Buffer.concat([content, Buffer.alloc(SIZE)]))).toBe(true)
    expect(readFileSync(back).subarray(0, SIZE).equals(content)).toBe(true)
    expect(readdirSync(folder).sort()).toEqual(["back.raw", "plain.qcow2", "small.qcow2", "source.raw"])
  })

  it("replaces a file, through a link too, only once the image is complete; after a stop the old file is there", async () => {
    const folder = temporaryDirectory()
    const { path, content } = source(folder)
    const target = join(folder, "target.img")
    writeFileSync(target, "precious", { mode: 0o600 })
    symlinkSync("target.img", join(folder, "link"))
    const stop = new AbortController()
    const stopped = convertImage(path, target, { signal: stop.signal, progress: () => stop.abort(new Error("enough")) })
    await expect(stopped).rejects.toThrow("enough")
    await expect(convertImage(path, target, { clusterSize: 1000 })).rejects.toMatchObject({ code: "invalid-argument" })
    expect(readFileSync(target, "utf8")).toBe("precious")
    expect(readdirSync(folder).sort()).toEqual(["link", "source.raw", "target.img"])
    await convertImage(path, join(folder, "link"))
    expect(contentOf(target).equals(content)).toBe(true)
    expect(statSync(target).mode & 0o777).toBe(0o600)
  })

  it("makes the file that a link leads to, through other links and folders, and the links stay", async () => {
    const folder = temporaryDirectory()
    const { path, content } = source(folder)
    mkdirSync(join(folder, "deep", "er"), { recursive: true })
    symlinkSync("deep/er", join(folder, "short"))
    // Relative to the folder that the link is in, and not to the one that it is found by.
    symlinkSync("../target.img", join(folder, "deep", "er", "second"))
    symlinkSync("short/second", join(folder, "first"))
    await convertImage(path, join(folder, "first"))
    expect(contentOf(join(folder, "deep", "target.img")).equals(content)).toBe(true)
    expect([readlinkSync(join(folder, "first")), readlinkSync(join(folder, "short", "second"))]).toEqual(["short/second", "../target.img"])
    expect(readdirSync(join(folder, "deep")).sort()).toEqual(["er", "target.img"])
    expect(readdirSync(folder).sort()).toEqual(["deep", "first", "short", "source.raw"])
  })

  it("a link into a folder that does not exist, links in a circle, and a link where only a new file may be are refused", async () => {
    const folder = temporaryDirectory()
    const { path } = source(folder)
    symlinkSync("nowhere/target.img", join(folder, "lost"))
    symlinkSync("round", join(folder, "round"))
    const message: unknown = expect.stringMatching(/lost: cannot create: its folder does not exist$/)
    await expect(convertImage(path, join(folder, "lost"))).rejects.toMatchObject({ code: "not-found", message })
    await expect(convertImage(path, join(folder, "round"))).rejects.toThrow("its symbolic links lead in a circle")
    expect(() => createImage(join(folder, "lost"), { size: 512 })).toThrow("it exists already")
    expect(readdirSync(folder).sort()).toEqual(["lost", "round", "source.raw"])
  })

  it("an error names the target, not its temporary file, and no file is left", async () => {
    const directory = temporaryDirectory()
    const [source, target] = [join(directory, "source"), join(directory, "new")]
    writeFileSync(source, new Uint8Array(4096).fill(1))
    const failing = convertImage(source, target, { source: { format: "raw" }, clusterSize: 3 })
    await expect(failing).rejects.toMatchObject({ code: "invalid-argument", path: target, message: expect.stringMatching(/new: [^/]*$/) })
    const full = writeReplacing(target, async (path) => {
      writeFileSync(path, "a part")
      throw new BackingError("no-space", "cannot write 10 bytes at byte 20: no space left", { path, offset: 20 })
    })
    const message = `${target}: cannot write 10 bytes at byte 20: no space left`
    await expect(full).rejects.toMatchObject({ name: "BackingError", code: "no-space", path: target, offset: 20, message })
    await expect(writeReplacing(target, async () => { throw new RangeError("a fault of ours") })).rejects.toThrow(RangeError)
    expect(readdirSync(directory)).toEqual(["source"])
  })

  it("makes a file of any name that the host allows, and refuses a longer one", async () => {
    const folder = temporaryDirectory()
    const { path, content } = source(folder)
    const names = ["n".repeat(255), "\u{1f4be}".repeat(63)].map((name) => join(folder, name))
    for (const name of names) {
      await convertImage(path, name, { source: { format: "raw" } })
      expect(contentOf(name).equals(content)).toBe(true)
    }
    expect(readdirSync(folder)).toHaveLength(1 + names.length)
    const long = join(folder, "n".repeat(256))
    const message = `${long}: cannot open: its name is too long for the file system`
    await expect(convertImage(path, long, { source: { format: "raw" } })).rejects.toMatchObject({ message })
  })

  it("does not replace an image in use: by another opening, as the source, or as a backing file of the source", async () => {
    const folder = temporaryDirectory()
    const { path, content } = source(folder)
    const overlay = join(folder, "overlay.qcow2")
    createImage(overlay, { backing: "source.raw", backingFormat: "raw" })
    for (const [from, to] of [[path, path], [overlay, overlay], [overlay, path]] as const) {
      await expect(convertImage(from, to)).rejects.toMatchObject({ code: "busy" })
    }
    const disk = openImage(overlay)
    await expect(convertImage(path, overlay)).rejects.toMatchObject({ code: "busy" })
    disk.close()
    expect(readFileSync(path).equals(content)).toBe(true)
    await expect(convertImage(path, folder)).rejects.toMatchObject({ code: "invalid-format" })
  })

  it("with a backing file copies only what the source holds itself", async () => {
    const folder = temporaryDirectory()
    const { path, content } = source(folder)
    copyFileSync(path, join(folder, "copy.raw"))
    const overlay = join(folder, "overlay.qcow2")
    createImage(overlay, { backing: "source.raw", backingFormat: "raw" })
    const disk = openImage(overlay)
    disk.pwrite(new Uint8Array(65536).fill(7), 131_072)
    disk.close()
    content.fill(7, 131_072, 196_608)
    const target = join(folder, "target.qcow2")
    await convertImage(overlay, target, { backing: "copy.raw", backingFormat: "raw" })
    expect(contentOf(target).equals(content)).toBe(true)
    expect(statSync(target).size).toBeLessThan(450_000)
    const overRaw = convertImage(path, target, { backing: "copy.raw", backingFormat: "raw" })
    await expect(overRaw).rejects.toThrow("only a qcow2 image can be converted")
  })
})

describe("vioblk convert, compare and measure", () => {
  it("convert makes an image of one source or several, and writes into an existing one with -n", async () => {
    const folder = temporaryDirectory()
    const { path, content } = source(folder)
    const [target, both] = [join(folder, "new.qcow2"), join(folder, "both.raw")]
    const made = await commandLine("convert", "-p", "-c", "-O", "qcow2", "-o", "cluster_size=4k", "-f", "raw", path, target)
    expect(made).toMatchObject({ code: 0, err: "" })
    expect(made.out).toMatch(/^100% 1 MiB of 1 MiB$/m)
    expect(contentOf(target).equals(content)).toBe(true)
    expect(await commandLine("convert", path, target, both)).toMatchObject({ code: 0, out: "", err: "" })
    expect(readFileSync(both).equals(Buffer.concat([content, content]))).toBe(true)
    writeFileSync(both, Buffer.alloc(SIZE + 512, 1))
    expect((await commandLine("convert", "-n", "-O", "raw", target, both)).code).toBe(0)
    expect(readFileSync(both).equals(Buffer.concat([content, Buffer.alloc(512, 1)]))).toBe(true)
  })

  it("compare exits with 0, 1 or 2, and prints the offset of the first sector that differs", async () => {
    const folder = temporaryDirectory()
    const { path, content } = source(folder)
    const other = join(folder, "other.raw")
    writeFileSync(other, Buffer.concat([content, Buffer.alloc(512)]))
    expect(await commandLine("compare", path, other)).toMatchObject({
      code: 0, out: "Warning: Image size mismatch!\nImages are identical.\n",
    })
    expect(await commandLine("compare", "-s", path, other)).toMatchObject({ code: 1, out: "Strict mode: Image size mismatch!\n" })
    content[700_000] = 1
    writeFileSync(other, content)
    expect(await commandLine("compare", path, other)).toMatchObject({ code: 1, out: "Content mismatch at offset 699904!\n" })
    expect(JSON.parse((await commandLine("compare", "--json", path, other)).out)).toEqual({
      same: false, difference: "content", offset: 700_000, sizesDiffer: false,
    })
    expect(await commandLine("compare", path, join(folder, "missing"))).toMatchObject({ code: 2, out: "" })
  })

  it("measure prints both sizes; wrong calls are refused in one line, and no file is made", async () => {
    const folder = temporaryDirectory()
    const { path } = source(folder)
    expect((await commandLine("measure", "-O", "qcow2", "--size", "1G")).out).toBe(
      "required size: 393216\nfully allocated size: 1074135040\n",
    )
    expect(JSON.parse((await commandLine("measure", "--output=json", path)).out)).toEqual({ required: SIZE, "fully-allocated": SIZE })
    const target = join(folder, "new")
    for (const words of [
      ["convert", path], ["convert", "-c", path, target], ["convert", "-S", "1000", path, target],
      ["convert", "--target-is-zero", path, target],
      ["convert", "--bitmaps", "-O", "qcow2", path, target], ["convert", "-n", "-o", "size=1", path, target], ["compare", path],
      ["measure", "--size", "1G", path], ["convert", path, path],
    ]) {
      const { code, err } = await commandLine(...words)
      expect(code, words.join(" ")).toBe(1)
      expect(err.trimEnd().split("\n"), words.join(" ")).toHaveLength(1)
    }
    expect(existsSync(target)).toBe(false)
  })
})

describe("the bitmaps of an image", () => {
  it("QC-BMP-08 bitmaps are copied with their granularity, state and bits, or the copy is refused with nothing made", async () => {
    const folder = temporaryDirectory()
    const [from, to, other] = [join(folder, "from.qcow2"), join(folder, "to.qcow2"), join(folder, "other.qcow2")] as const
    createImage(from, { size: SIZE, clusterSize: 512 })
    const image = openQcow2(from)
    image.bitmaps.add("a", { granularity: 512 })
    image.bitmaps.add("b", { granularity: 65536 })
    image.pwrite(new Rng(4).bytes(70_000), 3000)
    image.pwrite(new Uint8Array(512).fill(1), SIZE - 512)
    image.bitmaps.disable("a")
    image.close()
    await convertImage(from, to, { bitmaps: "all" })
    const [old, made] = [openQcow2(from), openQcow2(to)]
    expect(made.bitmaps.list()).toEqual(old.bitmaps.list())
    for (const { name } of old.bitmaps.list()) expect([...made.bitmaps.changed(name)]).toEqual([...old.bitmaps.changed(name)])
    expect([...made.bitmaps.changed("a")].length).toBe(2)
    old.close()
    made.close()
    await expect(convertImage(from, other, { bitmaps: "all", format: "raw" })).rejects.toThrow(/only a qcow2 image of version 3/)
    await expect(
      convertImage(from, other, { bitmaps: "all", size: 2 * SIZE }),
    ).rejects.toThrow(/the target has 2097152 bytes, but the source/)
    const fromRaw = convertImage(source(folder).path, other, { bitmaps: "all" })
    await expect(fromRaw).rejects.toThrow(/the source is not a qcow2 image of version 3/)
    expect(readdirSync(folder).sort()).toEqual(["from.qcow2", "source.raw", "to.qcow2"])
  })
})

function openQcow2(path: string): Qcow2Image {
  const image = openImage(path)
  if (!(image instanceof Qcow2Image)) throw new Error("a qcow2 image")
  return image
}
