/** The qcow2 header and its extensions: read, refused, written back. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { encryptedImage } from "../../../../src/backing/qcow2/encryption.ts"
import { parseExtensions, serialiseExtensions } from "../../../../src/backing/qcow2/format/extensions.ts"
import { backingFormat, type Qcow2Header, serialiseHeader } from "../../../../src/backing/qcow2/format/header.ts"
import { parseHeader } from "../../../../src/backing/qcow2/format/parse-header.ts"
import { refuseCorruptForWriting, refuseUnsupported } from "../../../../src/backing/qcow2/format/unsupported.ts"

const PATH = "disk.qcow2"
const CLUSTER = 65536

/** A version 3 header as QEMU 7.2 writes it for 1 GiB, without its feature name table; fields typed in from the format's text. */
function v3(change: (view: DataView, bytes: Uint8Array) => void = () => {}): Uint8Array {
  const bytes = new Uint8Array(CLUSTER)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, 0x5146_49fb)
  view.setUint32(4, 3)
  view.setUint32(20, 16)
  view.setBigUint64(24, 0x4000_0000n)
  view.setUint32(36, 2)
  view.setBigUint64(40, 0x3_0000n)
  view.setBigUint64(48, 0x1_0000n)
  view.setUint32(56, 1)
  view.setUint32(96, 4)
  view.setUint32(100, 112)
  change(view, bytes)
  return bytes
}

function v2(change: (view: DataView, bytes: Uint8Array) => void = () => {}): Uint8Array {
  return v3((view, bytes) => {
    view.setUint32(4, 2)
    bytes.fill(0, 72)
    change(view, bytes)
  })
}

function fault(work: () => unknown): BackingError {
  try {
    work()
  } catch (error) {
    if (error instanceof BackingError) return error
    throw error
  }
  throw new Error("nothing was refused")
}

const parse = (bytes: Uint8Array): Qcow2Header => parseHeader(bytes, PATH)
const refused = (change: (view: DataView, bytes: Uint8Array) => void): string => {
  const error = fault(() => parse(v3(change)))
  expect(error.message.startsWith(`${PATH}: `)).toBe(true)
  expect(error.message).not.toContain("\n")
  return error.code
}
const put = (bytes: Uint8Array, at: number, text: string): void => bytes.set(new TextEncoder().encode(text), at)

describe("qcow2 header", () => {
  it("QC-HDR-02 QC-HDR-03 reads every field of a version 3 header", () => {
    const header = parse(
      v3((view) => {
        view.setBigUint64(64, 0x5_0000n)
        view.setUint32(60, 3)
        view.setBigUint64(80, 1n)
        view.setBigUint64(88, 1n << 40n)
        view.setUint32(96, 6)
      }),
    )
    expect(header).toMatchObject({
      version: 3,
      clusterBits: 16,
      size: 0x4000_0000,
      cryptMethod: 0,
      l1Size: 2,
      l1TableOffset: 0x3_0000,
      refcountTableOffset: 0x1_0000,
      refcountTableClusters: 1,
      snapshotCount: 3,
      snapshotsOffset: 0x5_0000,
      incompatibleFeatures: 0n,
      compatibleFeatures: 1n,
      autoclearFeatures: 1n << 40n,
      refcountOrder: 6,
      headerLength: 112,
      compressionType: 0,
      backingFile: undefined,
      extensions: [],
    })
  })

  it("QC-HDR-01 another magic number and versions other than 2 and 3 are refused", () => {
    expect(refused((view) => view.setUint32(0, 0xfb49_4651))).toBe("invalid-format")
    for (const version of [0, 1, 4, 0xffff_ffff]) expect(refused((view) => view.setUint32(4, version))).toBe("unsupported")
    for (const length of [0, 3, 4, 71, 72, 103]) expect(fault(() => parse(v3().subarray(0, length))).code).toBe("invalid-format")
    const cut = (bytes: Uint8Array, length: number): string => fault(() => parse(bytes.subarray(0, length))).message
    const message = (length: number, whole: number): string =>
      `${PATH}: qcow2 header cut short: ${length} of ${whole} bytes; the file is truncated, so copy it again`
    for (const [length, whole] of [[4, 72], [8, 104], [71, 104], [72, 104], [103, 104], [104, 112], [111, 112]] as const) {
      expect(cut(v3(), length)).toBe(message(length, whole))
    }
    expect(cut(v2(), 71)).toBe(message(71, 72))
  })

  it("QC-HDR-04 in version 2 extensions, not fields, follow from byte 72 on", () => {
    const header = parse(
      v2((view, bytes) => {
        view.setUint32(72, 0x1234_5678)
        view.setUint32(76, 24)
        bytes.fill(0xff, 80, 104)
      }),
    )
    expect(header).toMatchObject({
      version: 2,
      incompatibleFeatures: 0n,
      compatibleFeatures: 0n,
      autoclearFeatures: 0n,
      refcountOrder: 4,
      headerLength: 72,
      compressionType: 0,
    })
    expect(header.extensions).toHaveLength(1)
  })

  it("QC-HDR-05 header_length is a multiple of 8 from 104 to the cluster size", () => {
    for (const length of [0, 72, 96, 105, CLUSTER + 8, 0xffff_ffff]) {
      expect(refused((view) => view.setUint32(100, length))).toBe("invalid-format")
    }
    for (const length of [104, 112, 120, CLUSTER]) expect(parse(v3((view) => view.setUint32(100, length))).headerLength).toBe(length)
  })

  it("QC-HDR-06 with header_length 104, byte 104 belongs to the first extension and compression is zlib", () => {
    const header = parse(
      v3((view) => {
        view.setUint32(100, 104)
        view.setUint32(104, 0x0134_5678)
        view.setUint32(108, 8)
      }),
    )
    expect(header.compressionType).toBe(0)
    expect(header.extensions.map((extension) => extension.type)).toEqual([0x0134_5678])
  })

  it("QC-HDR-06 QC-EXT-04 unknown trailing fields, extensions and bits survive a rewrite byte for byte", () => {
    const bytes = v3((view, raw) => {
      view.setUint32(100, 128)
      raw.fill(0xab, 105, 128)
      view.setBigUint64(80, 1n << 17n)
      view.setUint32(128, 0x1234_5678)
      view.setUint32(132, 5)
      put(raw, 136, "hello")
      view.setUint32(144, 0xe279_2aca)
      view.setUint32(148, 3)
      put(raw, 152, "raw")
      view.setBigUint64(8, 168n)
      view.setUint32(16, 8)
      put(raw, 168, "base.img")
    })
    const again = serialiseHeader(parse(bytes), PATH)
    expect(Buffer.compare(again, bytes.subarray(0, again.length))).toBe(0)
    expect(bytes.subarray(again.length).every((byte) => byte === 0)).toBe(true)
  })

  it("QC-HDR-04 a version 2 header with a backing format and name survives a rewrite byte for byte", () => {
    const bytes = v2((view, raw) => {
      view.setUint32(72, 0xe279_2aca)
      view.setUint32(76, 5)
      put(raw, 80, "qcow2")
      view.setBigUint64(8, 96n)
      view.setUint32(16, 7)
      put(raw, 96, "a.qcow2")
    })
    const header = parse(bytes)
    expect(backingFormat(header)).toBe("qcow2")
    expect(Buffer.compare(serialiseHeader(header, PATH), bytes.subarray(0, 104))).toBe(0)
  })

  it("QC-HDR-07 cluster_bits is 9 to 21", () => {
    for (const bits of [0, 8, 22, 63, 0xffff_ffff]) expect(refused((view) => view.setUint32(20, bits))).toBe("invalid-format")
  })

  it("QC-HDR-08 QC-LIM-05 the size is any number of bytes below 2^53", () => {
    expect(parse(v3((view) => view.setBigUint64(24, 1000n))).size).toBe(1000)
    expect(refused((view) => view.setBigUint64(24, 1n << 53n))).toBe("unsupported")
    expect(refused((view) => view.setBigUint64(24, (1n << 64n) - 1n))).toBe("unsupported")
  })

  it("QC-HDR-09 the L1 table must cover the disk, and may be larger", () => {
    expect(refused((view) => view.setUint32(36, 1))).toBe("invalid-format")
    expect(parse(v3((view) => view.setUint32(36, 102))).l1Size).toBe(102)
  })

  it("QC-LIM-01 the L1 table has at most 32 MiB, the refcount table 8 MiB, the snapshot table 65536 entries", () => {
    expect(parse(v3((view) => view.setUint32(36, 4194304))).l1Size).toBe(4194304)
    expect(refused((view) => view.setUint32(36, 4194305))).toBe("invalid-format")
    expect(parse(v3((view) => view.setUint32(56, 128))).refcountTableClusters).toBe(128)
    expect(refused((view) => view.setUint32(56, 129))).toBe("invalid-format")
    expect(refused((view) => view.setUint32(56, 0xffff_ffff))).toBe("invalid-format")
    expect(refused((view) => view.setUint32(60, 65537))).toBe("invalid-format")
  })

  it("QC-HDR-10 tables are cluster aligned and end before 2^53", () => {
    for (const field of [40, 48, 64]) {
      expect(refused((view) => view.setBigUint64(field, 0x3_0200n))).toBe("invalid-format")
      for (const offset of [(1n << 63n) - 0x1_0000n, 1n << 53n, (1n << 64n) - 0x1_0000n]) {
        expect(refused((view) => view.setBigUint64(field, offset))).toBe("invalid-format")
      }
    }
  })

  it("QC-HDR-12 the backing name lies in the first cluster and has at most 1023 bytes", () => {
    const named =
      (offset: bigint, length: number) =>
      (view: DataView): void => {
        view.setBigUint64(8, offset)
        view.setUint32(16, length)
      }
    expect(parse(v3(named(0x1000n, 1023))).backingFile).toHaveLength(1023)
    expect(refused(named(0x1000n, 1024))).toBe("invalid-format")
    expect(refused(named(0xffffn, 2))).toBe("invalid-format")
    expect(refused(named(0x1_0001n, 1))).toBe("invalid-format")
    expect(refused(named(1n << 63n, 1))).toBe("invalid-format")
    expect(parse(v3(named(0n, 0xffff_ffff))).backingFile).toBeUndefined()
  })

  it("QC-HDR-13 QC-EXT-10 crypt_method is 0 to 2, and LUKS goes with its extension", () => {
    expect(refused((view) => view.setUint32(32, 3))).toBe("unsupported")
    expect(refused((view) => view.setUint32(32, 2))).toBe("invalid-format")
    const pointer =
      (method: number, length: number, offset: bigint) =>
      (view: DataView): void => {
        view.setUint32(32, method)
        view.setUint32(112, 0x0537_be77)
        view.setUint32(116, length)
        view.setBigUint64(120, offset)
      }
    for (const method of [0, 1]) expect(refused(pointer(method, 16, 0x4_0000n))).toBe("invalid-format")
    expect(refused(pointer(2, 8, 0x4_0000n))).toBe("invalid-format")
    expect(refused(pointer(2, 16, 0x4_0200n))).toBe("invalid-format")
    const luks = parse(v3(pointer(2, 16, 0x4_0000n)))
    expect(encryptedImage(luks, PATH)).toEqual({ path: PATH, encryption: "luks" })
    expect(encryptedImage(parse(v3((view) => view.setUint32(32, 1))), PATH)).toEqual({ path: PATH, encryption: "aes" })
  })

  it("QC-HDR-14 refcount_order is 0 to 6", () => {
    for (let order = 0; order <= 6; order++) expect(parse(v3((view) => view.setUint32(96, order))).refcountOrder).toBe(order)
    for (const order of [7, 0xffff_ffff]) expect(refused((view) => view.setUint32(96, order))).toBe("invalid-format")
  })

  it("QC-HDR-15 a header that does not fit into its cluster is not encoded", () => {
    const header = parse(v3((view) => view.setUint32(20, 16)))
    const crowded: Qcow2Header = { ...header, clusterBits: 9, backingFile: new Uint8Array(500) }
    expect(fault(() => serialiseHeader(crowded, PATH)).code).toBe("no-space")
  })
})

describe("qcow2 feature bits", () => {
  it("QC-FEAT-01 an unknown incompatible bit is refused, with its name when the image has one", () => {
    const unnamed = parse(v3((view) => view.setBigUint64(72, 1n << 63n)))
    expect(fault(() => refuseUnsupported(unnamed, PATH)).message).toBe(
      `${PATH}: unsupported incompatible feature bit 63 at byte 72; open it with the program that wrote it`,
    )
    const named = parse(
      v3((view, bytes) => {
        view.setBigUint64(72, 1n << 5n)
        view.setUint32(112, 0x6803_f857)
        view.setUint32(116, 96)
        bytes.set([1, 5], 120)
        put(bytes, 122, "wrong kind")
        bytes.set([0, 5], 168)
        put(bytes, 170, "frobnicate")
      }),
    )
    const error = fault(() => refuseUnsupported(named, PATH))
    expect(error.code).toBe("unsupported")
    expect(error.message).toContain('bit 5 ("frobnicate")')
  })

  it("QC-EXT-08 a feature name of 46 characters and a table that ends inside an entry are read safely", () => {
    const header = parse(
      v3((view, bytes) => {
        view.setBigUint64(72, 1n << 6n)
        view.setUint32(112, 0x6803_f857)
        view.setUint32(116, 48 + 7)
        bytes.set([0, 6], 120)
        put(bytes, 122, "x".repeat(46))
        bytes.set([0, 7], 168)
      }),
    )
    expect(fault(() => refuseUnsupported(header, PATH)).message).toContain(`("${"x".repeat(46)}")`)
  })

  it("QC-FEAT-01 control characters of a feature name do not reach the terminal", () => {
    const header = parse(
      v3((view, bytes) => {
        view.setBigUint64(72, 1n << 6n)
        view.setUint32(112, 0x6803_f857)
        view.setUint32(116, 48)
        bytes.set([0, 6], 120)
        put(bytes, 122, "\u001b[2Jgone\n")
      }),
    )
    expect(fault(() => refuseUnsupported(header, PATH)).message).not.toMatch(/[\u0000-\u001f]/)
  })

  it("QC-FEAT-01 features of later versions of this program are refused by name", () => {
    const later = fault(() => refuseUnsupported(parse(v3((view) => view.setBigUint64(72, 1n << 5n))), PATH))
    expect([later.code, later.message]).toEqual(["unsupported", expect.stringContaining("incompatible feature bit 5")])
  })

  it("QC-FEAT-02 unknown compatible bits are ignored", () => {
    expect(() => refuseUnsupported(parse(v3((view) => view.setBigUint64(80, 1n << 17n))), PATH)).not.toThrow()
  })

  it("QC-FEAT-05 a corrupt image is refused for writing only", () => {
    const header = parse(v3((view) => view.setBigUint64(72, 2n)))
    expect(() => refuseUnsupported(header, PATH)).not.toThrow()
    expect(fault(() => refuseCorruptForWriting(header, PATH)).code).toBe("corrupt")
  })

  it("QC-FEAT-06 compression bit and type go together", () => {
    expect(refused((view) => view.setBigUint64(72, 8n))).toBe("invalid-format")
    expect(refused((view) => view.setUint8(104, 1))).toBe("invalid-format")
    expect(
      refused((view) => {
        view.setBigUint64(72, 8n)
        view.setUint8(104, 2)
      }),
    ).toBe("unsupported")
    expect(
      parse(
        v3((view) => {
          view.setBigUint64(72, 8n)
          view.setUint8(104, 1)
        }),
      ).compressionType,
    ).toBe(1)
  })

  it("QC-FEAT-08 QC-BF-09 raw external data needs a data file and excludes a backing file", () => {
    expect(refused((view) => view.setBigUint64(88, 2n))).toBe("invalid-format")
    const both = (view: DataView): void => {
      view.setBigUint64(72, 4n)
      view.setBigUint64(88, 2n)
    }
    expect(parse(v3(both)).autoclearFeatures).toBe(2n)
    expect(
      refused((view) => {
        both(view)
        view.setBigUint64(8, 0x1000n)
        view.setUint32(16, 4)
      }),
    ).toBe("invalid-format")
  })

  it("QC-HDR-11 a header without a refcount table is parsed for a repair, but the image is not opened", () => {
    const header = parse(v3((view) => view.setUint32(56, 0)))
    expect(fault(() => refuseUnsupported(header, PATH)).code).toBe("invalid-format")
  })
})

describe("qcow2 header extensions", () => {
  const area = (bytes: number[], end = bytes.length) => parseExtensions(Uint8Array.from(bytes), { start: 0, end, path: PATH })

  it("QC-EXT-01 the list ends at type 0 or with the area", () => {
    expect(area([0, 0, 0, 9, 0, 0, 0, 0])).toHaveLength(1)
    expect(area([0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3])).toHaveLength(1)
    expect(area([])).toHaveLength(0)
    expect(area([0, 0, 0, 9, 0, 0, 0, 1, 7])).toEqual([{ type: 9, data: Uint8Array.of(7) }])
  })

  it("QC-EXT-03 a record that runs past the area is refused, also the end marker", () => {
    for (const type of [
      [0, 0, 0, 9],
      [0xe2, 0x79, 0x2a, 0xca],
      [0, 0, 0, 0],
    ]) {
      expect(fault(() => area([...type, 0xff, 0xff, 0xff, 0xf8, 0, 0, 0, 0])).code).toBe("invalid-format")
      expect(fault(() => area([...type, 0, 0, 0, 5, 0, 0, 0, 0])).code).toBe("invalid-format")
    }
    expect(fault(() => area([0, 0, 0, 0])).code).toBe("invalid-format")
  })

  it("QC-EXT-02 QC-EXT-05 a known type that comes twice is refused, an unknown one is not", () => {
    const record = (type: number) => ({ type, data: new Uint8Array(3) })
    const twice = (type: number) => {
      const bytes = serialiseExtensions([record(type), record(type)])
      return parseExtensions(bytes, { start: 0, end: bytes.length, path: PATH })
    }
    for (const known of [0xe279_2aca, 0x6803_f857, 0x2385_2875, 0x0537_be77, 0x4441_5441]) {
      expect(fault(() => twice(known)).code).toBe("invalid-format")
    }
    expect(twice(0x1234_5678)).toHaveLength(2)
  })

  it("QC-EXT-06 strings end at their length, whatever the padding holds", () => {
    const header = parse(
      v3((view, bytes) => {
        view.setUint32(112, 0xe279_2aca)
        view.setUint32(116, 5)
        put(bytes, 120, "qcow2junk")
      }),
    )
    expect(backingFormat(header)).toBe("qcow2")
  })

  it("QC-EXT-07 a backing format of 16 bytes is refused, one of 15 is not", () => {
    const format =
      (length: number) =>
      (view: DataView): void => {
        view.setUint32(112, 0xe279_2aca)
        view.setUint32(116, length)
      }
    expect(parse(v3(format(15))).extensions).toHaveLength(1)
    expect(refused(format(16))).toBe("invalid-format")
  })
})
