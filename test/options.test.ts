/** Whoever calls us wrongly is told so: every public function that takes options or a disk, called as a JavaScript program may call it. */
import { existsSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { describe, expect, it } from "vitest"
import * as vioblk from "../src/index.ts"
import { checkOptions, type Rules } from "../src/options.ts"
import { MemoryFile } from "./support/memory-file.ts"
import { temporaryDirectory } from "./support/temporary.ts"

/** The public functions as a program without types sees them. */
const untyped = vioblk as unknown as Record<keyof typeof vioblk, Untyped>
const { checkImage, createImage, HostFile, MemoryBacking, openImage, openQcow2, RawBacking, repairImage } = untyped
const { attachToV86, ConfigMechanism1Access, Ecam, enumeratePci, findBlockDevices, LinearMemory, Machine } = untyped
const {
  ConfigMechanism1, PackedRing, PciDevice, RamAllocator, RamRegion, SplitRing, VirtioBlk, VirtioDriver, VirtioMmio, VirtioPciFunction,
} = untyped
const { mmioDeviceTreeNode, mmioKernelArgument, Throttle } = untyped

interface Untyped {
  (...args: readonly unknown[]): unknown
  new (...args: readonly unknown[]): unknown
}

/** The message of the TypeError that `work` must throw. */
function complaint(work: () => unknown): string {
  let result: unknown
  try {
    result = work()
  } catch (error) {
    if (error instanceof TypeError) return error.message
    throw error
  }
  throw new Error(`taken, with the result ${String(result)}`)
}

function emptyFile(): MemoryFile {
  return MemoryFile.of(new Uint8Array(4096))
}

function emptyQcow2(): string {
  const path = join(temporaryDirectory(), "disk.qcow2")
  vioblk.createImage(path, { size: 1 << 20 })
  return path
}

function overlay(): string {
  const path = join(temporaryDirectory(), "overlay.qcow2")
  vioblk.createImage(join(dirname(path), "base"), { size: 1 << 20, format: "raw" })
  vioblk.createImage(path, { backing: "base", backingFormat: "raw" })
  return path
}

describe("options", () => {
  interface Sample {
    readonly size: number
    readonly readOnly?: boolean
    readonly format?: "raw" | "qcow2"
    readonly name?: string
    readonly call?: () => void
    readonly list?: readonly number[]
    readonly inner?: { readonly a: number }
    readonly whatever?: number | bigint
  }
  const RULES: Rules<Sample> = {
    size: "number", readOnly: "boolean?", format: ["raw", "qcow2"], name: "string?", call: "function?", list: "array?", inner: "object?",
    whatever: "any?",
  }
  const check = (options: unknown) => checkOptions("open", options as Sample, RULES)

  it.each<[unknown]>([
    [{ size: 1 }], [{ size: 0, readOnly: false, format: "raw", name: "", call: () => {}, list: [], inner: { a: 1 }, whatever: 1n }],
    [{ size: 1, readOnly: undefined, format: undefined, name: undefined }], [Object.assign(Object.create({ readOnly: true }), { size: 1 })],
  ])("%o are accepted", (options) => expect(check(options)).toBeUndefined())

  it.each<[unknown, string]>([
    [{ size: 1, readonly: true }, 'open: unknown option "readonly"; did you mean "readOnly"?'],
    [{ size: 1, read_only: true }, 'open: unknown option "read_only"; did you mean "readOnly"?'],
    [{ size: 1, fromat: "raw" }, 'open: unknown option "fromat"; did you mean "format"?'],
    [{ size: 1, formatt: undefined }, 'open: unknown option "formatt"; did you mean "format"?'],
    [{ size: 1, colour: 1 }, 'open: unknown option "colour"; the options are size, readOnly, format, name, call, list, inner and whatever'],
    [{}, "open: size is missing; it must be a number"],
    [{ size: "5" }, 'open: size must be a number, not the string "5"'],
    [{ size: 5n }, "open: size must be a number, not the bigint 5"],
    [{ size: null }, "open: size must be a number, not null"],
    [{ size: 1, readOnly: "yes" }, 'open: readOnly must be true or false, not the string "yes"'],
    [{ size: 1, readOnly: 1 }, "open: readOnly must be true or false, not 1"],
    [{ size: 1, format: "QCOW2" }, 'open: format must be "raw" or "qcow2", not the string "QCOW2"; did you mean "qcow2"?'],
    [{ size: 1, format: "vhdx" }, 'open: format must be "raw" or "qcow2", not the string "vhdx"'],
    [{ size: 1, format: null }, 'open: format must be "raw" or "qcow2", not null'],
    [{ size: 1, name: ["a"] }, "open: name must be a string, not an array"],
    [{ size: 1, name: "x".repeat(9), call: class Caller {}.prototype }, "open: call must be a function, not an object of class Caller"],
    [{ size: 1, list: { length: 0 } }, "open: list must be an array, not an object"],
    [{ size: 1, name: Promise.resolve("a") }, "open: name must be a string, not a promise"],
    [
      "disk.qcow2",
      'open: the options must be an object with size, readOnly, format, name, call, list, inner or whatever, not the string "disk.qcow2"',
    ],
    [true, "open: the options must be an object with size, readOnly, format, name, call, list, inner or whatever, not true"],
    [null, "open: the options must be an object with size, readOnly, format, name, call, list, inner or whatever, not null"],
    [[], "open: the options must be an object with size, readOnly, format, name, call, list, inner or whatever, not an array"],
  ])("%o: %s", (options, message) => expect(complaint(() => check(options))).toBe(message))
})

describe("disks", () => {
  it.each<[string, () => unknown, string]>([
    [
      "openImage, readonly",
      () => openImage(emptyQcow2(), { readonly: true }),
      'openImage: unknown option "readonly"; did you mean "readOnly"?',
    ],
    [
      "openImage, a format in capitals",
      () => openImage(emptyQcow2(), { format: "QCOW2" }),
      'openImage: format must be "raw", "qcow2" or "luks", not the string "QCOW2"; did you mean "qcow2"?',
    ],
    [
      "openImage, readOnly as a string",
      () => openImage(emptyQcow2(), { readOnly: "no" }),
      'openImage: readOnly must be true or false, not the string "no"',
    ],
    [
      "openImage, a flag in place of options",
      () => openImage(emptyQcow2(), true),
      "openImage: the options must be an object with format, readOnly",
    ],
    ["openImage, no path", () => openImage(), "openImage: path is missing; it must be a string"],
    ["openImage, a URL", () => openImage(new URL("file:///x")), "openImage: path must be a string, not an object of class URL"],
    [
      "openImage, resolveBacking as a path",
      () => openImage(emptyQcow2(), { resolveBacking: "/" }),
      'openImage: resolveBacking must be a function, not the string "/"',
    ],
    [
      "HostFile, readonly",
      () => new HostFile(emptyQcow2(), { readonly: true }),
      'HostFile: unknown option "readonly"; did you mean "readOnly"?',
    ],
    ["HostFile, a descriptor", () => new HostFile(3), "HostFile: path must be a string, not 3"],
    [
      "openQcow2, readonly",
      () => openQcow2(new vioblk.HostFile(emptyQcow2()), { readonly: true }),
      'openQcow2: unknown option "readonly"; did you mean "readOnly"?',
    ],
    ["openQcow2, a path", () => openQcow2("disk.qcow2"), 'openQcow2: the file must implement ImageFile, not the string "disk.qcow2"'],
    [
      "openQcow2, a file without methods",
      () => openQcow2({ path: "x", readOnly: true }),
      "openQcow2: the file has no size; it must be a function: see the interface ImageFile",
    ],
    [
      "MemoryBacking, a size alone",
      () => new MemoryBacking(512),
      "MemoryBacking: the options must be an object with size or readOnly, not 512",
    ],
    [
      "MemoryBacking, nothing",
      () => new MemoryBacking(),
      "MemoryBacking: the options must be an object with size or readOnly, not undefined",
    ],
    ["MemoryBacking, no size", () => new MemoryBacking({}), "MemoryBacking: size is missing; it must be a number"],
    [
      "MemoryBacking, a size as text",
      () => new MemoryBacking({ size: "512" }),
      'MemoryBacking: size must be a number, not the string "512"',
    ],
    ["RawBacking, a path", () => new RawBacking("disk.raw"), 'RawBacking: the file must implement ImageFile, not the string "disk.raw"'],
    [
      "RawBacking, an option of another class",
      () => new RawBacking(emptyFile(), { readOnly: true }),
      'RawBacking: unknown option "readOnly"; the options are guardSignatures',
    ],
    [
      "checkImage, an option of another function",
      () => checkImage(emptyQcow2(), { readOnly: true }),
      'checkImage: unknown option "readOnly"',
    ],
    [
      "repairImage, options in place of the mode",
      () => repairImage(emptyQcow2(), {}),
      'repairImage: mode must be "leaks" or "all", not an object',
    ],
    [
      "openImage, a promise of a path for a backing file",
      () => openImage(overlay(), { resolveBacking: async () => "base" }),
      "openImage: what resolveBacking returns must be a string, not a promise",
    ],
    ["checkImage, nothing", () => checkImage(), "checkImage: the file must implement ImageFile, not undefined"],
    [
      "repairImage, no mode",
      () => repairImage(new vioblk.HostFile(emptyQcow2())),
      'repairImage: mode is missing; it must be "leaks" or "all"',
    ],
    [
      "repairImage, an unknown mode",
      () => repairImage(new vioblk.HostFile(emptyQcow2()), "al"),
      'repairImage: mode must be "leaks" or "all", not the string "al"; did you mean "all"?',
    ],
  ])("%s", (_what, work, message) => expect(complaint(work)).toContain(message))

  it.each<[string, unknown, string]>([
    ["a promise", Promise.resolve(), "what openBacking returned is a promise; await it first"],
    ["nothing", undefined, "what openBacking returned must implement BackingDisk, not undefined"],
    ["a file", emptyFile(), "size of what openBacking returned is the function size; it must be a number: see the interface BackingDisk"],
    [
      "an async disk",
      { size: 1 << 20, async pread() {}, async preadv() {}, close() {} },
      "pread of what openBacking returned is an async function; a backing image is read synchronously",
    ],
  ])("openQcow2, openBacking returns %s", (_what, backing, message) => {
    const file = new vioblk.HostFile(overlay(), { readOnly: true })
    expect(complaint(() => openQcow2(file, { openBacking: () => backing }))).toContain(`openQcow2: ${message}`)
    file.close()
  })

  it("openQcow2 reads no stale buffer through a backing image that answers later", () => {
    const later = { size: 1 << 20, pread() {}, preadv: () => Promise.reject(new Error("late")), close() {} }
    const image = vioblk.openQcow2(new vioblk.HostFile(overlay(), { readOnly: true }), { openBacking: () => later as never })
    expect(complaint(() => image.pread(new Uint8Array(512), 0))).toContain("preadv of a backing image returned a promise")
    image.close()
  })

  it.each<[string, unknown, string]>([
    ["clustersize", { size: 1 << 20, clustersize: 4096 }, 'createImage: unknown option "clustersize"; did you mean "clusterSize"?'],
    ["a size as text", { size: "1G" }, 'createImage: size must be a number, not the string "1G"'],
    ["a size alone", 1 << 20, "createImage: the options must be an object with size, clusterSize"],
    ["no options", undefined, "createImage: the options must be an object with size, clusterSize"],
    ["compat as a number", { size: 1 << 20, compat: 1.1 }, 'createImage: compat must be "0.10" or "1.1", not 1.1'],
    [
      "a format in capitals",
      { size: 1 << 20, format: "RAW" },
      'createImage: format must be "raw", "qcow2" or "luks", not the string "RAW"; did you mean "raw"?',
    ],
    [
      "preallocation as QEMU has it",
      { size: 1 << 20, preallocation: "falloc" },
      'createImage: preallocation must be "off" or "metadata", not the string "falloc"',
    ],
  ])("createImage, %s: nothing is made", (_what, options, message) => {
    const path = join(temporaryDirectory(), "new.qcow2")
    expect(complaint(() => createImage(path, options))).toContain(message)
    expect(existsSync(path)).toBe(false)
  })
})

describe("an ImageFile whose methods return promises is refused, not read as an empty image", () => {
  /** A file over node:fs/promises, as somebody may write it at first. */
  function promising(names: readonly string[], make: (method: (...args: unknown[]) => unknown) => (...args: unknown[]) => unknown): object {
    const file = emptyFile()
    const all = ["size", "read", "readInto", "readv", "write", "writeFrom", "writev", "truncate", "sync", "close"]
    const methods = all.map((name) => {
      const method = (...args: unknown[]): unknown => Reflect.apply(Reflect.get(file, name), file, args)
      return [name, names.includes(name) ? make(method) : method]
    })
    return { path: "disk", readOnly: false, ...Object.fromEntries(methods) }
  }
  const asynchronous = (method: (...args: unknown[]) => unknown) => async (...args: unknown[]) => method(...args)
  const returning = (method: (...args: unknown[]) => unknown) => (...args: unknown[]) => Promise.resolve().then(() => method(...args))
  const rejecting = () => () => Promise.reject(new Error("no such file"))

  const openings: readonly (readonly [string, (file: unknown) => unknown])[] = [
    ["RawBacking", (file) => new RawBacking(file)], ["openQcow2", (file) => openQcow2(file)], ["checkImage", (file) => checkImage(file)],
    ["repairImage", (file) => repairImage(file, "all")],
  ]
  describe.each(openings)("%s", (who, open) => {
    it.each([
      [
        "all, async",
        ["size", "read", "readInto", "readv", "write", "writeFrom", "writev", "truncate", "sync", "close"],
        asynchronous,
        "size",
      ],
      ["all, returned", ["size", "read", "readInto", "readv", "write", "writeFrom", "writev"], returning, "size"],
      ["reads, returned", ["read", "readInto", "readv"], returning, "read"],
      ["reads that reject", ["read", "readInto", "readv"], rejecting, "read"],
      ["writes, async", ["write", "writeFrom", "writev"], asynchronous, "write"],
      ["sync, async", ["sync"], asynchronous, "sync"],
    ])("%s", (_what, names, make, named) => {
      const message = complaint(() => open(promising(names, make)))
      const rule = "the methods of an ImageFile are synchronous: see the interface ImageFile"
      expect(message).toBe(`${who}: ${named} of the file returns a promise; ${rule}`)
    })
  })

  it("a file whose methods answer at once is accepted", () => {
    expect(new vioblk.RawBacking(promising([], asynchronous) as vioblk.ImageFile).size).toBe(4096)
  })

  it("a HostFile is accepted", () => {
    const path = join(temporaryDirectory(), "disk.raw")
    writeFileSync(path, "abc")
    const backing = new vioblk.RawBacking(new vioblk.HostFile(path))
    expect(backing.size).toBe(3)
    backing.close()
  })
})

/** A disk that has all that a backing must have, with `change`. */
function disk(change: object = {}): object {
  return { size: 512, readOnly: false, pread() {}, pwrite() {}, close() {}, ...change }
}

describe("what is not a backing is refused with the method that it lacks", () => {
  const SEE = "see the interface VirtioBacking"
  it.each<[string, unknown, string]>([
    ["an empty object", {}, `the backing has no size; it must be a number: ${SEE}`],
    ["a path", "disk.qcow2", 'the backing must implement VirtioBacking, not the string "disk.qcow2"; openImage opens a file'],
    ["nothing", undefined, "the backing must implement VirtioBacking, not undefined"],
    ["null", null, "the backing must implement VirtioBacking, not null"],
    ["a promise", Promise.resolve(disk()), "the backing is a promise; await it first"],
    ["bytes", new Uint8Array(512), `the backing has no size; it must be a number: ${SEE}`],
    ["no readOnly", disk({ readOnly: undefined }), `the backing has no readOnly; it must be true or false: ${SEE}`],
    ["no pread", disk({ pread: undefined }), `the backing has no pread; it must be a function: ${SEE}`],
    ["no close", disk({ close: undefined }), `the backing has no close; it must be a function: ${SEE}`],
    ["a pwrite that is no function", disk({ pwrite: true }), `pwrite of the backing is true; it must be a function: ${SEE}`],
    ["a flush that is no function", disk({ flush: {} }), `flush of the backing is an object; it must be a function: ${SEE}`],
    ["a size as text", disk({ size: "512" }), `size of the backing is the string "512"; it must be a number: ${SEE}`],
    ["a size as a bigint", disk({ size: 512n }), `size of the backing is the bigint 512; it must be a number: ${SEE}`],
    ...[-5, Number.NaN, 0.5, 2 ** 53, Number.POSITIVE_INFINITY].map((size): [string, unknown, string] => [
      `a size of ${size}`,
      disk({ size }),
      `size of the backing is ${size}; it must be a whole number of bytes from 0 to 2^53 - 1: ${SEE}`,
    ]),
    [
      "a granularity of 1000",
      disk({ discardGranularity: 1000 }),
      `discardGranularity of the backing is 1000; it must be a multiple of 512 bytes: ${SEE}`,
    ],
    [
      "an async pread",
      disk({ pread: async () => {} }),
      `pread of the backing is an async function; a backing that answers later has asynchronous: true: ${SEE}`,
    ],
    [
      "an async flush",
      disk({ async flush() {} }),
      `flush of the backing is an async function; a backing that answers later has asynchronous: true: ${SEE}`,
    ],
    [
      "an async preadNow",
      disk({ asynchronous: true, preadNow: async () => true }),
      `preadNow of the backing is an async function; it must have done its work when it returns: ${SEE}`,
    ],
    [
      "an async pwriteFrom",
      disk({ pwriteFrom: async () => {} }),
      `pwriteFrom of the backing is an async function; it must have done its work when it returns: ${SEE}`,
    ],
    [
      "asynchronous as text",
      disk({ asynchronous: "yes" }),
      `asynchronous of the backing is the string "yes"; it must be true or false: ${SEE}`,
    ],
    [
      "a granularity of 0",
      disk({ discardGranularity: 0 }),
      `discardGranularity of the backing is 0; it must be a multiple of 512 bytes: ${SEE}`,
    ],
  ])("%s", (_what, backing, message) => {
    expect(complaint(() => new VirtioBlk(backing))).toBe(`VirtioBlk: ${message}`)
    const vm = new vioblk.Machine({ ramSize: 1 << 20 })
    expect(complaint(() => vm.attachDisk(backing as vioblk.VirtioBacking))).toBe(`Machine.attachDisk: ${message}`)
    expect(complaint(() => attachToV86(emulator, backing))).toBe(`attachToV86: ${message}`)
  })

  it("async methods of an asynchronous backing, and an async close of any, are accepted", () => {
    const later = async (): Promise<void> => undefined
    const remote = disk({ asynchronous: true, pread: later, pwrite: later, flush: later, close: later })
    expect(new vioblk.VirtioBlk(remote as vioblk.VirtioBacking).capacity).toBe(1)
    expect(new vioblk.VirtioBlk(disk({ close: later }) as vioblk.VirtioBacking).capacity).toBe(1)
  })

  it("inherited members count, and additional ones do not matter", () => {
    class Base {
      readonly readOnly = true
      get size(): number {
        return 1024
      }
      pread(): void {}
      pwrite(): void {}
      close(): void {}
    }
    class Disk extends Base {
      readonly colour = "red"
    }
    expect(new vioblk.VirtioBlk(new Disk()).capacity).toBe(2)
  })

  it("a size that has become invalid is refused when it is announced, and the guest keeps the old one", () => {
    const backing = { ...disk(), size: 1024 } as { size: number } & vioblk.VirtioBacking
    const device = new vioblk.VirtioBlk(backing)
    backing.size = Number.NaN
    expect(complaint(() => device.capacityChanged())).toContain("VirtioBlk: size of the backing is NaN")
    expect(device.capacity).toBe(2)
  })
})

const emulator = { add_listener() {}, save_state() {}, restore_state() {} }

/** A machine with one disk, and its PCI device as a driver finds it. */
function machine(): { vm: vioblk.Machine; pci: vioblk.PciDevice } {
  const vm = new vioblk.Machine({ ramSize: 4 << 20 })
  vm.attachDisk(new vioblk.MemoryBacking({ size: 1 << 20 }))
  const [pci] = vioblk.findBlockDevices(vm)
  if (pci === undefined) throw new Error("the machine has no disk")
  return { vm, pci }
}

describe("devices and machines", () => {
  const memory = new vioblk.LinearMemory(new ArrayBuffer(4096))
  const interrupts = { intx() {}, message() {} }
  const attach = (options: unknown) => machine().vm.attachDisk(disk() as vioblk.VirtioBacking, options as object)
  it.each<[() => unknown, string]>([
    [() => new VirtioBlk(disk(), { qeues: 2 }), 'VirtioBlk: unknown option "qeues"; did you mean "queues"?'],
    [() => new VirtioBlk(disk(), { throttle: 5 }), "VirtioBlk: throttle must be an object, not 5"],
    [() => new VirtioBlk(disk(), { throttle: { byte: 5 } }), 'VirtioBlk: unknown option "byte"; did you mean "bytes"?'],
    [() => new Throttle({}, { clock: {} }), "Throttle: clock has no now; it must be a function: see the interface ThrottleClock"],
    [() => new VirtioBlk(disk(), { readErrors: "enospc" }),
      'VirtioBlk: readErrors must be "report", "ignore" or "stop", not the string "enospc"'],
    [() => new VirtioBlk(disk(), { writeErrors: "enospace" }),
      'VirtioBlk: writeErrors must be "report", "ignore", "stop" or "enospc", not the string "enospace"; did you mean "enospc"?'],
    [() => new VirtioBlk(disk(), { observer: {} }), "VirtioBlk: observer must be a function, not an object"],
    [() => new VirtioBlk(disk(), { latency: true }), 'VirtioBlk: latency must be "off", "sampled" or "all", not true'],
    [() => new VirtioBlk(disk(), { queues: "2" }), 'VirtioBlk: queues must be a number, not the string "2"'],
    [() => new VirtioBlk(disk(), "root"), "VirtioBlk: the options must be an object with serial, queues"],
    [() => new VirtioBlk(disk(), { serial: 5 }), "VirtioBlk: serial must be a string, not 5"],
    [() => new VirtioBlk(disk(), { withoutFeatures: "MQ" }), 'VirtioBlk: withoutFeatures must be an array, not the string "MQ"'],
    [
      () => new VirtioBlk(disk(), { withFeatures: ["RING_PACKD"] }),
      'VirtioBlk: unknown name "RING_PACKD" in withFeatures; did you mean "RING_PACKED"?',
    ],
    [() => new VirtioBlk(disk(), { withFeatures: ["MQ"] }), 'VirtioBlk: unknown name "MQ" in withFeatures; the names are'],
    [
      () => new VirtioBlk(disk(), { withoutFeatures: ["MQ", "FLUSHING"] }),
      'VirtioBlk: unknown name "FLUSHING" in withoutFeatures; did you mean "FLUSH"?',
    ],
    [
      () => new VirtioBlk(disk(), { withoutFeatures: ["VERSION_1"] }),
      'VirtioBlk: unknown name "VERSION_1" in withoutFeatures; the names are',
    ],
    [
      () => new VirtioBlk(disk(), { withoutFeatures: ["toString"] }),
      'VirtioBlk: unknown name "toString" in withoutFeatures; the names are',
    ],
    [() => new VirtioBlk(disk(), { withoutFeatures: [13] }), "VirtioBlk: withoutFeatures must be an array of strings, but has 13 in it"],
    [
      () => new VirtioPciFunction(new VirtioBlk(disk())),
      "VirtioPciFunction: the options must be an object with interface, modernBar, guestEndian, vectors, memory or interrupts",
    ],
    [() => new VirtioPciFunction(new VirtioBlk(disk()), { memory }), "VirtioPciFunction: interrupts is missing; it must be an object"],
    [
      () => new VirtioPciFunction(new VirtioBlk(disk()), { memory, interrupt: interrupts }),
      'unknown option "interrupt"; did you mean "interrupts"?',
    ],
    [
      () => new VirtioPciFunction(new VirtioBlk(disk()), { memory: new ArrayBuffer(8), interrupts }),
      "VirtioPciFunction: memory has no generation; it must be a number",
    ],
    [
      () => new VirtioPciFunction(new VirtioBlk(disk()), { memory, interrupts: { intx() {} } }),
      "interrupts has no message; it must be a function: see the interface PciInterrupts",
    ],
    [
      () => new VirtioPciFunction(new VirtioBlk(disk()), { memory, interrupts, vectors: "2" }),
      'VirtioPciFunction: vectors must be a number, not the string "2"',
    ],
    [
      () => new VirtioPciFunction(disk(), { memory, interrupts }),
      "VirtioPciFunction: the device has no virtio; it must be an object: see the interface Transportable (a VirtioBlk)",
    ],
    [
      () => new VirtioPciFunction(undefined, { memory, interrupts }),
      "VirtioPciFunction: the device must implement Transportable (a VirtioBlk), not undefined",
    ],
    [
      () => new VirtioPciFunction(new VirtioBlk(disk()), { memory, interrupts, guestEndian: "Big" }),
      'VirtioPciFunction: guestEndian must be "little" or "big", not the string "Big"; did you mean "big"?',
    ],
    [
      () => new VirtioMmio(new VirtioBlk(disk())),
      "VirtioMmio: the options must be an object with version, guestEndian, memory or interrupt, not undefined",
    ],
    [() => new VirtioMmio(disk(), { memory, interrupt() {} }), "VirtioMmio: the device has no virtio; it must be an object"],
    [() => new VirtioMmio(new VirtioBlk(disk()), { memory }), "VirtioMmio: interrupt is missing; it must be a function"],
    [
      () => new VirtioMmio(new VirtioBlk(disk()), { memory, interrupts: () => undefined }),
      'VirtioMmio: unknown option "interrupts"; did you mean "interrupt"?',
    ],
    [
      () => new VirtioMmio(new VirtioBlk(disk()), { memory, interrupt() {}, version: "2" }),
      'VirtioMmio: version must be a number, not the string "2"',
    ],
    [
      () => machine().vm.attachMmioDisk(disk() as vioblk.VirtioBacking, { slot: 3 } as object),
      'Machine.attachMmioDisk: unknown option "slot"',
    ],
    [() => machine().vm.attachMmioDisk({} as vioblk.VirtioBacking), "Machine.attachMmioDisk: the backing has no size"],
    [() => mmioKernelArgument({ address: 0x1000, size: 512 }), "mmioKernelArgument: line is missing; it must be a number"],
    [
      () => mmioDeviceTreeNode({ address: 0x1000, size: 512, line: 1 }, { cells: 2 }),
      'mmioDeviceTreeNode: unknown option "cells"',
    ],
    [() => new RamRegion(0, new ArrayBuffer(8)), "RamRegion: bytes must be a Uint8Array, not an object of class ArrayBuffer"],
    [() => new vioblk.PciBus().plug(1, {} as never), "PciBus.plug: the function must be a PciFunction, not an object"],
    [() => new ConfigMechanism1({}), "ConfigMechanism1: the bus must be a PciBus, not an object"],
    [() => new vioblk.Interrupts().subscribe("line" as never), 'Interrupts.subscribe: listener must be a function, not the string "line"'],
    [() => new PciDevice({}, { bus: 0, device: 1, function: 0 }), "the platform has no portRead; it must be a function"],
    [
      () => new LinearMemory(4096),
      "LinearMemory: ram must be an ArrayBuffer, a SharedArrayBuffer, a Uint8Array or a WebAssembly.Memory, not 4096",
    ],
    [
      () => new LinearMemory(new Uint16Array(8)),
      "a Uint8Array or a WebAssembly.Memory, not an object of class Uint16Array",
    ],
    [
      () => new LinearMemory(new ArrayBuffer(8), { offset: 1 }),
      'LinearMemory: unknown option "offset"; the options are start, length and written',
    ],
    [() => new LinearMemory(new ArrayBuffer(8), { written: true }), "LinearMemory: written must be a function, not true"],
    [() => new Machine(), "Machine: the options must be an object with ramSize"],
    [() => new Machine(64 << 20), "Machine: the options must be an object with ramSize"],
    [() => new Machine({ ramsize: 4096 }), 'Machine: unknown option "ramsize"; did you mean "ramSize"?'],
    [() => new Machine({ ramSize: "64M" }), 'Machine: ramSize must be a number, not the string "64M"'],
    [() => new Machine({ memory: new Uint32Array(8) }), "Machine: memory must be an ArrayBuffer"],
    [() => attach({ sereal: "root" }), 'Machine.attachDisk: unknown option "sereal"; did you mean "serial"?'],
    [() => attach({ slot: "3" }), 'Machine.attachDisk: slot must be a number, not the string "3"'],
    [
      () => attach({ interface: "Modern" }),
      'interface must be "transitional", "modern" or "legacy", not the string "Modern"; did you mean "modern"?',
    ],
    [() => attach(4), "Machine.attachDisk: the options must be an object with serial"],
    [() => machine().vm.plug(4, {} as never), "Machine.plug: make must be a function, not an object"],
    [() => attachToV86({}, disk()), "attachToV86: the emulator has no add_listener; it must be a function: see the interface V86Emulator"],
    [() => attachToV86(emulator, disk(), { vectors: 2 }), 'attachToV86: unknown option "vectors"; the options are'],
    [() => attachToV86(emulator, disk(), { modernBar: "io" }), 'attachToV86: unknown option "modernBar"; the options are'],
    [() => attachToV86(emulator, disk(), { slot: "4" }), 'attachToV86: slot must be a number, not the string "4"'],
  ])("%s", (work, message) => expect(complaint(work)).toContain(message))
})

describe("the driver", () => {
  it.each<[() => unknown, string]>([
    [
      () => findBlockDevices(machine().vm.pci),
      "enumeratePci: the platform has no portRead; it must be a function: see the interface Platform",
    ],
    [() => findBlockDevices(machine().vm, { bus: 0 }), 'enumeratePci: unknown option "bus"; did you mean "buses"?'],
    [() => enumeratePci(machine().vm, { buses: 0 }), "enumeratePci: buses must be an array, not 0"],
    [
      () => enumeratePci(machine().vm, { config: {} }),
      "enumeratePci: config has no read; it must be a function: see the interface ConfigAccess",
    ],
    [() => new ConfigMechanism1Access({}), "ConfigMechanism1Access: the platform has no portRead"],
    [() => new Ecam(machine().vm, { start: 0 }), 'Ecam: unknown option "start"; the options are base'],
    [() => new RamAllocator({ start: 0, size: 4096 }), 'RamAllocator: unknown option "size"; the options are start and length'],
    [() => new SplitRing({}, { eventIdx: true }), "SplitRing: layout is missing; it must be an object"],
    [() => new PackedRing({}, { eventIdx: true }), "PackedRing: layout is missing; it must be an object"],
    [
      () => new VirtioDriver(machine().pci, {}),
      "VirtioDriver: events has no used; it must be a function: see the interface VirtioDriverEvents",
    ],
    [() => machine().pci.changeCommand({ sett: 1 } as object), 'PciDevice.changeCommand: unknown option "sett"; did you mean "set"?'],
  ])("%s", (work, message) => expect(complaint(work)).toContain(message))

  it.each<[unknown, string]>([
    [{ transport: "Modern" }, 'transport must be "modern" or "legacy", not the string "Modern"; did you mean "modern"?'],
    [{ interrupts: "msi-x" }, 'interrupts must be "msix", "intx" or "none", not the string "msi-x"; did you mean "msix"?'],
    [{ queuesize: 8 }, 'unknown option "queuesize"; did you mean "queueSize"?'],
    [{ framing: { readible: [1] } }, 'unknown option "readible"; did you mean "readable"?'],
    [{ features: { refuse: ["MQQ"] } }, 'unknown name "MQQ" in features.refuse; did you mean "MQ"?'],
    [{ features: { wants: [] } }, 'unknown option "wants"; did you mean "want"?'],
    [{ features: { want: "MQ" } }, 'want must be an array, not the string "MQ"'],
    [7, "the options must be an object"],
  ])("BlockDriver.open rejects %o", async (options, message) => {
    await expect(vioblk.BlockDriver.open(machine().pci, options as object)).rejects.toThrow(TypeError)
    await expect(vioblk.BlockDriver.open(machine().pci, options as object)).rejects.toThrow(message)
  })

  it("BlockDriver.open rejects a value that is no device", async () => {
    const message = "BlockDriver.open: the device must be a PciDevice, not undefined; findBlockDevices finds them"
    await expect(vioblk.BlockDriver.open(undefined as never)).rejects.toThrow(new TypeError(message))
    await expect(vioblk.BlockDriver.open([machine().pci] as never)).rejects.toThrow("the device must be a PciDevice, not an array")
  })

  it("wrong requests reject, and send nothing", async () => {
    const driver = await vioblk.BlockDriver.open(machine().pci)
    const data = new Uint8Array(512)
    const range = { sector: 0, sectors: 1 }
    const calls: readonly (readonly [() => Promise<unknown>, string])[] = [
      [() => driver.read(0, 1, { qeue: 1 } as object), 'BlockDriver.read: unknown option "qeue"; did you mean "queue"?'],
      [() => driver.readInto(0, "text" as never), 'BlockDriver.readInto: target must be a Uint8Array, not the string "text"'],
      [() => driver.readStream(0, 1, undefined as never), "BlockDriver.readStream: consume is missing; it must be a function"],
      [() => driver.write(0, "text" as never), 'BlockDriver.write: data must be a Uint8Array, not the string "text"'],
      [() => driver.write(0, [1, 2] as never), "BlockDriver.write: data must be a Uint8Array, not an array"],
      [() => driver.write(0, data, { queue: "1" } as never), 'BlockDriver.write: queue must be a number, not the string "1"'],
      [() => driver.write(0, data, 1 as never), "BlockDriver.write: the options must be an object with queue or framing, not 1"],
      [() => driver.flush({ force: true } as object), 'BlockDriver.flush: unknown option "force"'],
      [() => driver.discard(range as never), "BlockDriver: ranges must be an array, not an object"],
      [
        () => driver.writeZeroes([range], { unMap: true } as object),
        'BlockDriver.writeZeroes: unknown option "unMap"; did you mean "unmap"?',
      ],
      [() => driver.writeZeroes([range], { unmap: 1 } as never), "BlockDriver.writeZeroes: unmap must be true or false, not 1"],
      [
        () => driver.getId({ framing: { segmentsize: 1 } } as object),
        'BlockDriver.getId, framing: unknown option "segmentsize"; did you mean "segmentSize"?',
      ],
      [() => driver.request({ type: 0, datain: 512 } as never), 'BlockDriver.request: unknown option "datain"; did you mean "dataIn"?'],
      [() => driver.request({} as never), "BlockDriver.request: type is missing; it must be a number"],
      [() => driver.request({ type: 1, dataOut: [1] } as never), "BlockDriver.request: dataOut must be a Uint8Array, not an array"],
      [() => driver.submit({} as never), "BlockDriver.submit: segments must be an array, not an object"],
      [() => driver.submit([], { quue: 1 } as object), 'BlockDriver.submit: unknown option "quue"; did you mean "queue"?'],
    ]
    const before = driver.virtio.counters.kicks
    for (const [call, message] of calls) {
      const error: unknown = await call().catch((reason: unknown) => reason)
      expect(error).toBeInstanceOf(TypeError)
      expect(String(error)).toContain(message)
    }
    expect(driver.virtio.counters.kicks).toBe(before)
    await driver.close()
  })
})

describe("a count must be a whole number in its range", () => {
  const image = emptyQcow2
  const openDriver = (options: object) => vioblk.BlockDriver.open(machine().pci, options)
  it.each<[string, (value: number) => unknown]>([
    ["openImage: cacheSize", (cacheSize) => vioblk.openImage(image(), { cacheSize })],
    ["openQcow2: cacheSize", (cacheSize) => vioblk.openQcow2(new vioblk.HostFile(image()), { cacheSize })],
    ["LinearMemory: start", (start) => new vioblk.LinearMemory(new ArrayBuffer(8), { start })],
    ["LinearMemory: length", (length) => new vioblk.LinearMemory(new ArrayBuffer(8), { length })],
    ["RamRegion: start", (start) => new vioblk.RamRegion(start, new Uint8Array(8))],
    ["enumeratePci: a bus", (bus) => vioblk.enumeratePci(machine().vm, { buses: [bus] })],
    ["Ecam: base", (base) => new vioblk.Ecam(machine().vm, { base })],
    ["BlockDriver.open: queues", (queues) => openDriver({ queues })],
    ["BlockDriver.open: depth", (depth) => openDriver({ depth })],
    ["BlockDriver.open: maxRequestBytes", (maxRequestBytes) => openDriver({ maxRequestBytes })],
    ["BlockDriver.open: watchInterval", (watchInterval) => openDriver({ watchInterval })],
    ["VirtioDriver: queueSize", (queueSize) => openDriver({ queueSize })],
    ["VirtioDriver: resetTimeout", (resetTimeout) => openDriver({ resetTimeout })],
  ])("%s", async (what, call) => {
    for (const value of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
      const error: unknown = await Promise.resolve(value).then(call).then(() => "taken", (reason: unknown) => reason)
      expect(error).toBeInstanceOf(RangeError)
      expect(String(error)).toMatch(new RegExp(`^RangeError: ${what} must be a whole number from \\d+ (up|to \\d+), not ${value}$`))
    }
  })
})
