/** openImage: formats, backing files by path, locks, and what is refused. */
import { linkSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join, relative } from "node:path"
import { describe, expect, it } from "vitest"
import { createImage } from "../../src/backing/create.ts"
import { openImage, type OpenImageOptions } from "../../src/backing/open.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { failureOf, filled } from "./qcow2/small-images.ts"

/** Opens, lets `work` look, closes. */
function using<T>(path: string, options: OpenImageOptions, work: (image: RawBacking | Qcow2Image) => T): T {
  const image = openImage(path, options)
  try {
    return work(image)
  } finally {
    image.close()
  }
}

function firstByte(image: RawBacking | Qcow2Image): number | undefined {
  const start = new Uint8Array(1)
  image.pread(start, 0)
  return start[0]
}

describe("openImage: the format", () => {
  it("is detected from the first bytes, unless it is stated", () => {
    const directory = temporaryDirectory()
    const [raw, qcow2] = [join(directory, "raw"), join(directory, "qcow2")]
    createImage(raw, { format: "raw", size: 4096 })
    createImage(qcow2, { size: 4096 })
    expect(using(raw, {}, (image) => image instanceof RawBacking)).toBe(true)
    expect(using(qcow2, {}, (image) => image instanceof Qcow2Image)).toBe(true)
    expect(using(qcow2, { format: "raw", readOnly: true }, (image) => image.size)).toBe(statSync(qcow2).size)
    expect(failureOf(() => openImage(raw, { format: "qcow2" })).code).toBe("invalid-format")
  })

  it("a guest cannot turn a raw disk of a detected format into a qcow2 image, only one stated as raw", () => {
    const path = join(temporaryDirectory(), "raw")
    createImage(path, { format: "raw", size: 4096 })
    const signature = new TextEncoder().encode("QFI")
    const header = Uint8Array.from([...signature, 0xfb])
    expect(failureOf(() => using(path, {}, (image) => image.pwrite(header, 0))).code).toBe("permission")
    using(path, { format: "raw" }, (image) => image.pwrite(header, 0))
  })

  it.each([
    "QED\0",
    "KDMV",
    "COWD",
    "# Disk DescriptorFile\n",
    "vhdxfile",
    "conectix",
    "<<< Oracle VM VirtualBox Disk Image >>>",
    "WithoutFreeSpace",
  ])(
    "an image that begins with %j is refused, unless it is stated as raw",
    (signature) => {
      const path = join(temporaryDirectory(), "other")
      writeFileSync(path, signature.padEnd(1024, "\0"))
      expect(failureOf(() => openImage(path)).code).toBe("unsupported")
      using(path, { format: "raw" }, () => {})
    },
  )

  it("a missing file, or one that is no image, gives one line with the path", () => {
    const directory = temporaryDirectory()
    const error = failureOf(() => openImage(join(directory, "none.qcow2")))
    expect([error.code, error.message]).toEqual(["not-found", `${join(directory, "none.qcow2")}: cannot open: no such file`])
    expect(failureOf(() => openImage(directory)).code).toBe("invalid-format")
    expect(failureOf(() => openImage(join(directory, "a\0b"))).message).not.toContain("\0")
  })
})

describe("openImage: backing files", () => {
  /** base.raw <- middle.qcow2 <- top.qcow2, each with a byte of its own. */
  function chain(): { directory: string; top: string } {
    const directory = temporaryDirectory()
    const at = (name: string): string => join(directory, name)
    createImage(at("base.raw"), { format: "raw", size: 100_000 })
    using(at("base.raw"), {}, (image) => image.pwrite(filled(99_000, 1), 0))
    createImage(at("middle.qcow2"), { size: 300_000, clusterSize: 512, backing: "base.raw", backingFormat: "raw" })
    using(at("middle.qcow2"), {}, (image) => image.pwrite(filled(10_000, 2), 50_000))
    createImage(at("top.qcow2"), { backing: "middle.qcow2", backingFormat: "qcow2" })
    using(at("top.qcow2"), {}, (image) => image.pwrite(filled(100, 3), 55_000))
    return { directory, top: at("top.qcow2") }
  }

  it("QC-BF-05 QC-BF-06 a chain of different formats, sizes and cluster sizes is read through and never written", () => {
    const { directory, top } = chain()
    const below = ["base.raw", "middle.qcow2"].map((name) => readFileSync(join(directory, name)))
    using(top, {}, (image) => {
      expect(image.size).toBe(Math.ceil(300_000 / 512) * 512)
      const content = new Uint8Array(image.size)
      image.pread(content, 0)
      expect([0, 49_999, 50_000, 54_999, 55_000, 55_099, 55_100, 60_000, 98_999, 99_000, 299_999].map((at) => content[at])).toEqual([
        1, 1, 2, 2, 3, 3, 2, 1, 1, 0, 0,
      ])
      image.pwrite(filled(70_000, 4), 1)
      if (image instanceof Qcow2Image) image.discard(131_072, 65_536)
    })
    expect(
      ["base.raw", "middle.qcow2"].map(
        (name) => Buffer.compare(readFileSync(join(directory, name)), below[name === "base.raw" ? 0 : 1] ?? Buffer.alloc(0)),
      ),
    ).toEqual([0, 0])
  })

  it("resolveBacking may map a name to another file, or forbid it", () => {
    const { directory, top } = chain()
    const names: string[] = []
    using(
      top,
      {
        resolveBacking: ({ name }) => {
          names.push(name)
          return join(directory, name)
        },
      },
      () => {},
    )
    expect(names).toEqual(["middle.qcow2", "base.raw"])
    expect(() =>
      openImage(top, {
        resolveBacking: () => {
          throw new Error("forbidden")
        },
      }),
    ).toThrow("forbidden")
    // Nothing stays open or claimed.
    using(top, {}, () => {})
  })

  it("the error of a backing image that cannot be opened names it and the image that needs it, and no lock stays behind", () => {
    const { directory, top } = chain()
    writeFileSync(join(directory, "middle.qcow2"), "no image")
    const error = failureOf(() => openImage(top))
    expect([error.code, error.message]).toEqual([
      "invalid-format",
      expect.stringMatching(/top\.qcow2: cannot open its backing file: .*middle\.qcow2: it is not a qcow2 image/),
    ])
    using(join(directory, "middle.qcow2"), { format: "raw" }, () => {})
  })

  it("in a long chain the error names only the image whose backing image cannot be opened", () => {
    const { directory, top } = chain()
    const [third, fourth] = [join(directory, "third.qcow2"), join(directory, "fourth.qcow2")]
    createImage(third, { backing: top, backingFormat: "qcow2" })
    createImage(fourth, { backing: third, backingFormat: "qcow2" })
    rmSync(join(directory, "base.raw"))
    const { message } = failureOf(() => openImage(fourth))
    expect(message).toMatch(
      /fourth\.qcow2: cannot open its chain of backing files: .*middle\.qcow2: cannot open its backing file: .*base\.raw: .*no such file/,
    )
    expect(message).not.toMatch(/third|top/)
  })

  /** An image over `name`, made without looking at it. */
  function over(path: string, name: string): string {
    const file = new MemoryFile()
    createQcow2(file, { size: 4096, backing: name, backingFormat: "raw" })
    file.save(path)
    return path
  }

  it.each([
    ["json:{}", "is not a file but a description for QEMU in JSON; copy its content to a file, and name that with"],
    ["nbd://host/x", "is not a file but the address of an NBD server; copy"],
    ["nbd+unix:///x?socket=s", "is not a file but the address of an NBD server; copy"],
    ["https://host/x.raw", "is not a file but the address of a web server; copy"],
    ["a:b", `is not a file but an address for QEMU's protocol "a" (as the name of a file it is written "./a:b"); copy`],
    ["constructor:b", `is not a file but an address for QEMU's protocol "constructor"`],
  ])("QC-BF-08 a backing file named %s is refused with an explanation, and resolveBacking can map it to a file", (name, reason) => {
    const directory = temporaryDirectory()
    const path = over(join(directory, "top"), name)
    writeFileSync(join(directory, "copy"), filled(4096, 7))
    const { code, message } = failureOf(() => openImage(path))
    expect([code, message]).toEqual(["unsupported", expect.stringContaining(`top: its backing file "${name}" ${reason}`)])
    using(path, { resolveBacking: () => join(directory, "copy") }, (image) => expect(firstByte(image)).toBe(7))
  })

  it("QC-BF-08 file: precedes a path as in QEMU: not decoded, relative to the current directory; behind ./ anything is a name", () => {
    const directory = temporaryDirectory()
    writeFileSync(join(directory, "a%20:b"), filled(4096, 7))
    const fromHere = relative(process.cwd(), join(directory, "a%20:b"))
    for (const name of [`file://${directory}/a%20:b`, `file:${directory}/a%20:b`, `file:${fromHere}`, "./a%20:b", `${directory}/a%20:b`]) {
      using(over(join(directory, "top"), name), {}, (image) => expect(firstByte(image), name).toBe(7))
    }
    expect(
      failureOf(() => openImage(over(join(directory, "top"), "file:a%20:b"))).message,
    ).toContain(`${process.cwd()}/a%20:b: cannot open`)
  })

  it("other formats of a backing file are refused by name", () => {
    const { directory } = chain()
    const path = join(directory, "odd.qcow2")
    createImage(path, { size: 4096, backing: "base.raw", backingFormat: "raw" })
    const bytes = readFileSync(path)
    bytes.write("vdi", bytes.indexOf("raw"))
    writeFileSync(path, bytes)
    expect(failureOf(() => openImage(path)).message).toContain('has the format "vdi"')
  })
})

describe("openImage: two openings of one image", () => {
  it("a second writable opening is refused by any path to the file, and many readers are allowed", () => {
    const directory = temporaryDirectory()
    const path = join(directory, "disk.qcow2")
    createImage(path, { size: 1 << 20 })
    linkSync(path, join(directory, "other-name"))
    const writer = openImage(path)
    for (const again of [path, join(directory, ".", "disk.qcow2"), join(directory, "other-name")]) {
      expect(failureOf(() => openImage(again)).code).toBe("busy")
      expect(failureOf(() => openImage(again, { readOnly: true })).code).toBe("busy")
    }
    using(path, { readOnly: true, ignoreLocks: true }, () => {})
    writer.close()
    writer.close()
    const readers = [openImage(path, { readOnly: true }), openImage(path, { readOnly: true })]
    expect(failureOf(() => openImage(path)).code).toBe("busy")
    for (const reader of readers) reader.close()
    using(path, {}, () => {})
  })

  it("a backing file of an open image cannot be opened for writing, nor an image over a file that is open for writing", () => {
    const directory = temporaryDirectory()
    createImage(join(directory, "base"), { format: "raw", size: 4096 })
    createImage(join(directory, "top"), { backing: "base", backingFormat: "raw" })
    using(join(directory, "top"), {}, () => expect(failureOf(() => openImage(join(directory, "base"))).code).toBe("busy"))
    using(join(directory, "base"), {}, () => expect(failureOf(() => openImage(join(directory, "top"))).code).toBe("busy"))
  })
})
