/** New images in files that answer at once or later, and what is left of a creation that was interrupted. */
import { describe, expect, it } from "vitest"
import type { AsyncImageFile } from "../../src/backing/async-image-file.ts"
import { BackingError } from "../../src/backing/backing.ts"
import { createDisk, type CreateDiskOptions } from "../../src/backing/create-disk.ts"
import { nodeCryptography } from "../../src/backing/host/node-cryptography.ts"
import type { ImageFile } from "../../src/backing/image-file.ts"
import { MemoryFile } from "../../src/backing/memory-file.ts"
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { Rng } from "../support/rng.ts"
import { LateFile, type LateFileOptions } from "./paging/late-file.ts"

const OPTIONS: CreateDiskOptions = { size: 1 << 30, backing: "base.img", backingFormat: "raw", clusterSize: 4096 }

const KINDS: readonly (readonly [string, (inner: MemoryFile) => ImageFile | AsyncImageFile])[] = [
  ["a file that answers at once", (inner) => inner],
  ["a file that answers later", (inner) => new LateFile(inner, new Rng(1))],
]

function freshImage(): Uint8Array {
  const file = new MemoryFile()
  createQcow2(file, OPTIONS)
  return file.bytes()
}

function isSame(file: MemoryFile, bytes: Uint8Array): boolean {
  return Buffer.compare(file.bytes(), bytes) === 0
}

describe.each(KINDS)("%s", (_kind, wrap) => {
  it("gets the same image as by createQcow2, and no second image over it", async () => {
    const file = new MemoryFile()
    expect(await createDisk(wrap(file), OPTIONS)).toBe(true)
    expect(isSame(file, freshImage())).toBe(true)
    expect(checkQcow2(file)).toMatchObject({ exitCode: 0, leaks: 0 })
    file.write(Uint8Array.of(1), 3 << 20)
    const before = file.bytes()
    await expect(createDisk(wrap(file), OPTIONS)).rejects.toMatchObject({ code: "exists", path: "memory" })
    expect(await createDisk(wrap(file), { ...OPTIONS, onlyIfEmpty: true })).toBe(false)
    expect(isSame(file, before)).toBe(true)
  })

  it.each([
    ["a short raw disk", Uint8Array.of(0, 0, 0, 9)], ["a raw disk that begins with zeroes", new Uint8Array(9 << 20)],
    ["one byte", Uint8Array.of(1)],
  ])("which holds %s is left alone", async (_what, bytes) => {
    const file = MemoryFile.from(bytes.slice())
    expect(await createDisk(wrap(file), { ...OPTIONS, onlyIfEmpty: true })).toBe(false)
    expect(isSame(file, bytes)).toBe(true)
  })

  it("stays empty when an option is wrong", async () => {
    const file = new MemoryFile()
    await expect(createDisk(wrap(file), { ...OPTIONS, clusterSize: 1000 })).rejects.toMatchObject({ code: "invalid-argument" })
    await expect(createDisk(wrap(file), { ...OPTIONS, onlyEmpty: true } as CreateDiskOptions)).rejects.toThrow(/did you mean "onlyIfEmpty"/)
    expect(file.size()).toBe(0)
  })
})

it("a creation that fails at any change of the file leaves no image, and succeeds when it is repeated", async () => {
  let isThrough = false
  for (let n = 1; !isThrough; n++) {
    const inner = new MemoryFile()
    let changes = 0
    const late = new LateFile(inner, new Rng(n), {
      failing: (call) => {
        const isChange = call !== "size" && call !== "read"
        if (isChange) changes++
        return isChange && changes === n ? new BackingError("no-space", "full") : undefined
      },
    })
    const failure = await createDisk(late, OPTIONS).then(() => undefined, (error: unknown) => error)
    isThrough = failure === undefined
    if (isThrough) {
      expect(n).toBeGreaterThan(5)
      return
    }
    expect(failure).toMatchObject({ code: "no-space" })
    // The last sync comes after the header: the image is whole then.
    if (inner.size() > 0 && inner.bytes()[0] !== 0) expect(isSame(inner, freshImage())).toBe(true)
    else {
      await expect(openDisk(inner, { format: "qcow2", backing: () => new MemoryFile() })).rejects.toMatchObject({ code: "invalid-format" })
      late.failing = undefined
      expect(await createDisk(late, { ...OPTIONS, onlyIfEmpty: true })).toBe(true)
      expect(isSame(inner, freshImage())).toBe(true)
    }
  }
})

describe("an encrypted image", () => {
  const encryption = { passphrase: "abc", cipher: "aes-128", mode: "cbc", iterTime: 1 } as const
  const options: CreateDiskOptions = { size: 1 << 20, clusterSize: 4096, encryption }
  const cryptography = { ...nodeCryptography, countIterations: () => 1 }

  it("whose creation fails at any change of the file does not open, and can be created again with another key", async () => {
    for (let n = 1, isThrough = false; !isThrough; n++) {
      const inner = new MemoryFile()
      let changes = 0
      const late = new LateFile(inner, new Rng(n), {
        failing: (call) => (call !== "size" && call !== "read" && ++changes === n ? new BackingError("io", "gone") : undefined),
      })
      const failure = await createDisk(late, options, cryptography).then(() => undefined, (error: unknown) => error)
      isThrough = failure === undefined
      if (isThrough) expect(n).toBeGreaterThan(7)
      else expect(failure).toMatchObject({ code: "io" })
      late.failing = undefined
      const isImage = inner.size() > 0 && inner.bytes()[0] !== 0
      expect(await createDisk(late, { ...options, onlyIfEmpty: true }, cryptography), `change ${n}`).toBe(!isImage)
      expect(checkQcow2(inner)).toMatchObject({ exitCode: 0 })
      const disk = await openDisk(late, { passphrase: "abc" })
      const bytes = new Uint8Array(512).fill(1)
      await disk.pread(bytes, 4096)
      expect(bytes.every((byte) => byte === 0)).toBe(true)
      await disk.close()
    }
  })

  it("is not made over other key material, nor where other data lies beside it", async () => {
    const inner = new MemoryFile()
    await createDisk(inner, options, cryptography)
    inner.write(new Uint8Array(4096), 0)
    const before = inner.bytes()
    const other = { ...options, onlyIfEmpty: true, encryption: { ...encryption, hash: "sha1" } } as const
    expect(await createDisk(inner, other, cryptography)).toBe(false)
    inner.write(Uint8Array.of(9), inner.size() - 1)
    expect(await createDisk(inner, { ...options, onlyIfEmpty: true }, cryptography)).toBe(false)
    inner.write(before.slice(-1), inner.size() - 1)
    expect(isSame(inner, before)).toBe(true)
    expect(await createDisk(inner, { ...options, onlyIfEmpty: true }, cryptography)).toBe(true)
  })
})

it("the header's cluster is written last, once everything else is on stable storage", async () => {
  const calls: string[] = []
  class Listed extends MemoryFile {
    override write(buffer: Uint8Array, offset: number): void {
      calls.push(`write ${offset} to ${offset + buffer.length}`)
      super.write(buffer, offset)
    }

    override sync(): void {
      calls.push("sync")
      super.sync()
    }
  }
  const file = new Listed()
  await createDisk(file, { size: 2 ** 40, clusterSize: 4096 })
  expect(file.size()).toBeGreaterThan(1 << 20)
  expect(calls.slice(-3)).toEqual(["sync", expect.stringMatching(/^write 0 to \d{2,4}$/), "sync"])
  expect(calls.slice(0, -3).filter((call) => call === "sync" || call.startsWith("write 0 "))).toEqual([])
  expect(calls.length).toBeGreaterThan(4)
})

it("a preallocated image is as long as its disk, and only its tables are written", async () => {
  const file = new MemoryFile()
  await createDisk(new LateFile(file, new Rng(2)), { size: 2 ** 36, clusterSize: 1 << 20, preallocation: "metadata" })
  expect([file.size() > 2 ** 36, file.allocated < 8 << 20]).toEqual([true, true])
  expect(checkQcow2(file)).toMatchObject({ exitCode: 0 })
  expect(await createDisk(file, { size: 2 ** 36, clusterSize: 1 << 20, preallocation: "metadata", onlyIfEmpty: true })).toBe(false)
})

it("an overlay in a late file shows its base where nothing is written", async () => {
  const file = new LateFile(new MemoryFile(), new Rng(3))
  await createDisk(file, { ...OPTIONS, size: 1 << 20 })
  const disk = await openDisk(file, { backing: () => MemoryFile.from(new Uint8Array(1 << 20).fill(7)) })
  await disk.pwrite(new Uint8Array(512).fill(9), 4096)
  const back = new Uint8Array(1024)
  await disk.pread(back, 4096)
  expect([back[0], back[511], back[512], back[1023]]).toEqual([9, 9, 7, 7])
  await disk.close()
})

it("a read-only file is refused, and so is a path", async () => {
  await expect(createDisk(new MemoryFile({ readOnly: true }), OPTIONS)).rejects.toMatchObject({ code: "read-only" })
  await expect(createDisk("a.img" as unknown as MemoryFile, OPTIONS)).rejects.toThrow(
    /the file must implement AsyncImageFile, not the string/,
  )
})

/** A file whose size stays: an NBD export, a block device. */
class FixedFile extends LateFile {
  readonly #size: number

  constructor(inner: MemoryFile, rng: Rng, options: LateFileOptions = {}) {
    super(inner, rng, options)
    this.#size = inner.size()
  }

  override async truncate(size: number): Promise<void> {
    if (size !== this.#size) throw new BackingError("unsupported", "the size stays")
  }
}

describe("with overwrite", () => {
  const garbage = (): MemoryFile => MemoryFile.from(new Rng(11).bytes(3 << 20))
  const over: CreateDiskOptions = { ...OPTIONS, overwrite: true }

  it.each(KINDS)("%s with other content is truncated to the image", async (_kind, wrap) => {
    const file = garbage()
    await expect(createDisk(wrap(file), OPTIONS)).rejects.toMatchObject({ code: "exists", message: expect.stringContaining("overwrite") })
    expect(await createDisk(wrap(file), over)).toBe(true)
    expect(isSame(file, freshImage())).toBe(true)
    expect(await createDisk(wrap(file), over)).toBe(true)
    expect(isSame(file, freshImage())).toBe(true)
  })

  it.each([true, false])("a file of fixed size holds the image, and keeps its old bytes behind it (holes: %s)", async (canPunch) => {
    const file = garbage()
    expect(await createDisk(new FixedFile(file, new Rng(12), { canPunch }), over)).toBe(true)
    const [image, bytes] = [freshImage(), file.bytes()]
    expect(Buffer.compare(bytes.subarray(0, image.length), image)).toBe(0)
    expect(Buffer.compare(bytes.subarray(image.length), garbage().bytes().subarray(image.length))).toBe(0)
    expect(checkQcow2(file)).toMatchObject({ exitCode: 0, leaks: 0 })
    const disk = await openDisk(file, { backing: () => MemoryFile.from(new Uint8Array(1 << 20).fill(7)) })
    await disk.pwrite(new Uint8Array(512).fill(9), 4608)
    const back = new Uint8Array(1024)
    await disk.pread(back, 4096)
    expect([back[0], back[511], back[512], back[1023]]).toEqual([7, 7, 9, 9])
    await disk.close()
    expect(checkQcow2(MemoryFile.from(file.bytes()))).toMatchObject({ exitCode: 0, leaks: 0 })
  })

  it("a file of fixed size that is too small is left alone", async () => {
    const file = MemoryFile.from(new Rng(13).bytes(10_000))
    const before = file.bytes()
    await expect(createDisk(new FixedFile(file, new Rng(14)), over)).rejects.toMatchObject({ code: "no-space" })
    expect(isSame(file, before)).toBe(true)
  })

  it("a file that cannot grow enough is left alone", async () => {
    const file = MemoryFile.from(new Rng(13).bytes(10_000), { largestSize: 12_000 })
    const before = file.bytes()
    await expect(createDisk(file, over)).rejects.toMatchObject({ code: "no-space" })
    expect(isSame(file, before)).toBe(true)
  })

  it.each([
    "write", "truncate", "sync",
  ])("a file without the method %s is refused and left alone", async (name) => {
    const file = garbage()
    const late = Object.assign(new LateFile(file, new Rng(15)), { [name]: undefined })
    await expect(createDisk(late, over)).rejects.toThrow(new RegExp(`but has no ${name}`))
    expect(isSame(file, garbage().bytes())).toBe(true)
  })

  it("onlyIfEmpty is refused", async () => {
    await expect(createDisk(new MemoryFile(), { ...over, onlyIfEmpty: true })).rejects.toMatchObject({ code: "invalid-argument" })
  })

  it("a creation that fails at any change leaves the old image or none, and succeeds when it is repeated", async () => {
    for (let n = 1, isThrough = false; !isThrough; n++) {
      const inner = new MemoryFile()
      createQcow2(inner, { size: 1 << 20, clusterSize: 512 })
      inner.truncate(3 << 20)
      const before = inner.bytes()
      let changes = 0
      const file = new FixedFile(inner, new Rng(n), {
        failing: (call) => (call !== "size" && call !== "read" && ++changes === n ? new BackingError("io", "gone") : undefined),
      })
      const failure = await createDisk(file, over).then(() => undefined, (error: unknown) => error)
      isThrough = failure === undefined
      const image = inner.bytes().subarray(0, freshImage().length)
      if (isThrough) {
        expect(n).toBeGreaterThan(7)
        continue
      }
      expect(failure).toMatchObject({ code: "io" })
      if (image[0] === 0) {
        await expect(
          openDisk(inner, { format: "qcow2", backing: () => new MemoryFile() }),
        ).rejects.toMatchObject({ code: "invalid-format" })
      } else {
        expect(isSame(inner, before) || Buffer.compare(image, freshImage()) === 0).toBe(true)
      }
      file.failing = undefined
      expect(await createDisk(file, over)).toBe(true)
      expect(Buffer.compare(inner.bytes().subarray(0, freshImage().length), freshImage())).toBe(0)
    }
  })
})
