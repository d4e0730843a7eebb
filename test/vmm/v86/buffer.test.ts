/** v86Buffer under the calls of v86's drives: synchronous and late disks, errors, resets, states. */
import { describe, expect, it } from "vitest"
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { v86Buffer, type V86Buffer, type V86BufferOptions } from "../../../src/vmm/v86/buffer.ts"
import { FakeDrive, FakeEmulator, load } from "./fake-ide.ts"

const SIZE = 1 << 20
const bytes = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value)

/** A disk in memory that writes down its calls, and fails as it is told. */
class LoggedDisk extends MemoryBacking {
  readonly log: string[] = []
  /** Thrown by the next calls of these names. */
  readonly failures = new Map<string, unknown>()

  constructor(options: { readonly size?: number; readonly readOnly?: boolean } = {}) {
    super({ size: SIZE, ...options })
  }

  override pread(buffer: Uint8Array, offset: number): void {
    this.#call(`read ${offset}`)
    super.pread(buffer, offset)
  }

  override pwrite(buffer: Uint8Array, offset: number): void {
    this.#call(`write ${offset}`)
    super.pwrite(buffer, offset)
  }

  override flush(): void {
    this.#call("flush")
  }

  #call(entry: string): void {
    this.log.push(entry)
    const failure = this.failures.get(entry.split(" ")[0] ?? "")
    if (failure !== undefined) throw failure
  }
}

/** The same, answering when it is told to. */
class LateDisk implements VirtioBacking {
  readonly asynchronous = true
  readonly readOnly = false
  readonly size = SIZE
  readonly disk = new LoggedDisk()
  readonly waiting: (() => void)[] = []

  pread(buffer: Uint8Array, offset: number): Promise<void> {
    return this.#later(() => this.disk.pread(buffer, offset))
  }

  pwrite(buffer: Uint8Array, offset: number): Promise<void> {
    return this.#later(() => this.disk.pwrite(buffer, offset))
  }

  flush(): Promise<void> {
    return this.#later(() => this.disk.flush())
  }

  close(): void {}

  /** Answers what is asked, and what is asked because of the answers. */
  async answerAll(): Promise<void> {
    for (let quiet = 0; quiet < 3; quiet++) {
      for (const answer of this.waiting.splice(0)) {
        answer()
        quiet = 0
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  #later(act: () => void): Promise<void> {
    return new Promise((resolve, reject) => this.waiting.push(() => {
      try {
        resolve(act())
      } catch (error) {
        reject(error as Error)
      }
    }))
  }
}

function setUp<T extends VirtioBacking>(disk: T, options: { readonly place?: "hda" | "cdrom" | "fda"; readonly alone?: boolean } = {}): {
  disk: T; buffer: V86Buffer; emulator: FakeEmulator; drive: FakeDrive; errors: unknown[]
} {
  const errors: unknown[] = []
  const onError = (error: unknown): void => void errors.push(error)
  const more: V86BufferOptions = options.alone === true ? {} : { emulator: () => emulator }
  const buffer = v86Buffer(disk, { ...more, onError })
  const emulator: FakeEmulator = new FakeEmulator(buffer, options.place)
  return { disk, buffer, emulator, drive: emulator.drive, errors }
}

const failure = new BackingError("io", "the disk is broken")

describe("onError that throws", () => {
  const bug = new Error("injected: a bug in onError")

  function throwing(backing: VirtioBacking): FakeDrive {
    const buffer: V86Buffer = v86Buffer(backing, {
      emulator: () => emulator,
      onError: () => {
        throw bug
      },
    })
    const emulator: FakeEmulator = new FakeEmulator(buffer)
    return emulator.drive
  }

  it("throws to the caller after the guest got its error, for a synchronous disk and for an invalid command", () => {
    const disk = new LoggedDisk()
    disk.failures.set("read", failure)
    for (const start of [0, SIZE]) {
      const drive = throwing(disk)
      expect(() => drive.readDma(start, 512)).toThrow(bug)
      expect([start, drive.status_reg, drive.error_reg, drive.interrupts]).toEqual([start, 0x41, 0x40, 1])
    }
    expect(disk.log).toEqual(["read 0"])
  })

  it("causes no second call of a disk that answers later", async () => {
    const listeners = process.listeners("unhandledRejection")
    const rejections: unknown[] = []
    const note = (reason: unknown) => void rejections.push(reason)
    process.removeAllListeners("unhandledRejection")
    process.on("unhandledRejection", note)
    try {
      let calls = 0
      const drive = throwing({
        size: SIZE, readOnly: false, asynchronous: true, close() {}, pwrite() {},
        // It ends, if it is called without end.
        pread: () => (++calls < 100 ? Promise.reject(failure) : Promise.resolve()),
      })
      drive.readDma(0, 512)
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
      expect([calls, rejections, drive.status_reg, drive.interrupts]).toEqual([1, [bug], 0x41, 1])
    } finally {
      process.off("unhandledRejection", note)
      for (const listener of listeners) process.on("unhandledRejection", listener)
    }
  })
})

describe("a synchronous disk", () => {
  it("has its first sector ready at load, where v86 looks for the geometry", async () => {
    const { disk, buffer } = setUp(new LoggedDisk())
    MemoryBacking.prototype.pwrite.call(disk, bytes(512, 0x55), 0)
    expect(buffer.get_from_cache(0, 512)).toBeUndefined()
    await load(buffer)
    expect(buffer.get_from_cache(0, 512)).toEqual(bytes(512, 0x55))
    expect(buffer.get_from_cache(512, 512)).toBeUndefined()
    expect(disk.log).toEqual(["read 0"])
  })

  it("has only whole sectors", () => {
    expect(v86Buffer(new MemoryBacking({ size: 5000 })).byteLength).toBe(4608)
  })

  it("reads and writes at once, and flushes before a write completes for the guest", () => {
    const { disk, drive } = setUp(new LoggedDisk())
    drive.writeDma(1024, bytes(512, 7))
    expect(disk.log).toEqual(["write 1024", "flush"])
    expect([drive.status_reg, drive.interrupts, drive.channel.dma_status]).toEqual([0x50, 1, 0])
    drive.readDma(512, 1536)
    expect(drive.data).toEqual(Uint8Array.from([...bytes(512, 0), ...bytes(512, 7), ...bytes(512, 0)]))
    expect([drive.interrupts, drive.channel.dma_status]).toEqual([2, 0])
  })

  it("flushes only on request with writeThrough: false", async () => {
    const disk = new LoggedDisk()
    const buffer = v86Buffer(disk, { writeThrough: false })
    new FakeDrive(buffer).writeDma(0, bytes(512, 1))
    expect(disk.log).toEqual(["write 0"])
    await buffer.flush()
    expect(disk.log).toEqual(["write 0", "flush"])
  })

  it("reports a failed read to the guest as an error of the drive", () => {
    const { disk, drive, errors } = setUp(new LoggedDisk())
    disk.failures.set("read", failure)
    drive.readDma(0, 512)
    expect([drive.status_reg, drive.error_reg, drive.channel.dma_status & 3, drive.interrupts]).toEqual([0x41, 0x40, 2, 1])
    expect(errors).toEqual([failure])
    expect(drive.data).toBeUndefined()
    disk.failures.clear()
    drive.readDma(0, 512)
    expect([drive.data, drive.interrupts]).toEqual([bytes(512, 0), 2])
  })

  it("reports a failed read of a CD with sense data", () => {
    const { disk, drive } = setUp(new LoggedDisk(), { place: "cdrom" })
    disk.failures.set("read", failure)
    drive.readDma(0, 2048)
    expect([drive.sense, drive.interrupts, drive.channel.dma_status & 1]).toEqual([[3, 0x11], 1, 0])
  })

  it.each(["write", "flush"])("reports a failed %s as an error of the drive, however the guest writes", (name) => {
    const { disk, drive, errors } = setUp(new LoggedDisk())
    disk.failures.set(name, failure)
    drive.writeDma(0, bytes(512, 1))
    expect([drive.status_reg, drive.error_reg, drive.interrupts]).toEqual([0x41, 4, 1])
    drive.writePio(512, bytes(512, 1))
    expect([drive.status_reg, drive.error_reg]).toEqual([0x41, 4])
    expect(errors).toEqual([failure, failure])
    disk.failures.clear()
    disk.log.length = 0
    drive.readDma(0, 512)
    expect(disk.log).toEqual(["read 0"])
  })

  it("reports a floppy's errors to its controller", () => {
    const { disk, buffer, emulator } = setUp(new LoggedDisk(), { place: "fda" })
    disk.failures.set("read", failure)
    buffer.get(0, 512, () => expect.fail("it was answered"))
    disk.failures.set("write", failure)
    buffer.set(0, bytes(512, 1), () => expect.fail("it was answered"))
    expect(emulator.floppyResults).toEqual([[0x40, 0x20, 0x20], [0x40, 0x20, 0x20]])
  })

  it("refuses writes if it is read-only, and reads go on", () => {
    const { disk, drive, errors } = setUp(new LoggedDisk({ readOnly: true }))
    drive.writePio(0, bytes(512, 1))
    expect([drive.status_reg, drive.error_reg]).toEqual([0x41, 4])
    expect(errors).toMatchObject([{ code: "read-only" }])
    drive.readDma(0, 512)
    expect(drive.data).toEqual(bytes(512, 0))
    expect(disk.log).toEqual(["read 0"])
  })

  it("throws an error that is no BackingError, as a bug, once the guest has its error", () => {
    const { disk, drive, errors } = setUp(new LoggedDisk())
    const bug = new RangeError("a bug")
    disk.failures.set("read", bug)
    expect(() => drive.readDma(0, 512)).toThrow(bug)
    expect([errors, drive.status_reg]).toEqual([[bug], 0x41])
    disk.failures.clear()
    drive.readDma(0, 512)
    expect(drive.data).toEqual(bytes(512, 0))
  })

  it("lets v86 start although the first sector cannot be read, and the guest gets the error", async () => {
    const { disk, buffer, errors } = setUp(new LoggedDisk())
    disk.failures.set("read", failure)
    await load(buffer)
    expect(buffer.get_from_cache(0, 512)).toBeUndefined()
    expect([errors, buffer.lastError]).toEqual([[failure], failure])
  })
})

describe("a guest's numbers", () => {
  it.each([
    [-2048, 2048], [SIZE, 512], [SIZE - 512, 4096], [0, SIZE + 4096], [0, 2 ** 43], [2 ** 53, 512], [NaN, 512], [0, NaN],
  ])("a read at %d of %d bytes is refused before memory is taken for it", (start, length) => {
    const { disk, drive, errors } = setUp(new LoggedDisk(), { place: "cdrom" })
    drive.readDma(start, length)
    expect(errors).toMatchObject([{ code: "out-of-bounds" }])
    expect([disk.log, drive.sense]).toEqual([[], [3, 0x11]])
  })

  it("the largest read of a CD is refused, even on a larger disk", () => {
    const { errors, drive } = setUp(new MemoryBacking({ size: 2 ** 40 }), { place: "cdrom" })
    drive.readDma(0, 65_536 * 2048)
    expect(errors).toMatchObject([{ code: "out-of-bounds" }])
  })

  it.each([-512, SIZE, SIZE - 256])("a write at %d is refused", (start) => {
    const { disk, drive, errors } = setUp(new LoggedDisk())
    drive.writeDma(start, bytes(512, 1))
    expect([disk.log, drive.status_reg]).toEqual([[], 0x41])
    expect(errors).toMatchObject([{ code: "out-of-bounds" }])
  })

  it("the last block of a CD ends with zeroes", () => {
    const { disk, drive, errors } = setUp(new LoggedDisk({ size: 5120 }), { place: "cdrom" })
    MemoryBacking.prototype.pwrite.call(disk, bytes(1024, 9), 4096)
    drive.readDma(4096, 2048)
    expect(drive.data).toEqual(Uint8Array.from([...bytes(1024, 9), ...bytes(1024, 0)]))
    expect(errors).toEqual([])
  })
})

describe("a disk that answers later", () => {
  it("answers in order; writes that pile up share a flush", async () => {
    const { disk, drive } = setUp(new LateDisk())
    drive.writePio(0, bytes(512, 1))
    drive.writePio(512, bytes(512, 2))
    drive.writePio(1024, bytes(512, 3))
    drive.readDma(0, 1536)
    expect(drive.data).toBeUndefined()
    await disk.answerAll()
    expect(disk.disk.log).toEqual(["write 0", "flush", "write 512", "write 1024", "flush", "read 0"])
    expect(drive.data).toEqual(Uint8Array.from([...bytes(512, 1), ...bytes(512, 2), ...bytes(512, 3)]))
  })

  it("completes a DMA write once it is flushed", async () => {
    const { disk, drive } = setUp(new LateDisk())
    drive.writeDma(0, bytes(512, 1))
    disk.waiting.shift()?.()
    await new Promise((resolve) => setImmediate(resolve))
    expect([disk.disk.log, drive.interrupts]).toEqual([["write 0"], 0])
    await disk.answerAll()
    expect([disk.disk.log, drive.interrupts]).toEqual([["write 0", "flush"], 1])
  })

  it("does not answer a read that the guest gave up by a reset", async () => {
    const { disk, drive } = setUp(new LateDisk())
    drive.readDma(0, 512)
    drive.device_reset()
    await disk.answerAll()
    expect([drive.data, drive.interrupts]).toEqual([undefined, 0])
  })

  it("does not answer a read whose signal is aborted, nor do it if it has not begun", async () => {
    const { disk, buffer } = setUp(new LateDisk())
    const signal = { aborted: false }
    buffer.set(0, bytes(512, 1), () => undefined)
    buffer.get(512, 512, () => expect.fail("it was answered"), { signal })
    signal.aborted = true
    await disk.answerAll()
    expect(disk.disk.log).toEqual(["write 0", "flush"])
    signal.aborted = false
    buffer.get(1024, 512, () => expect.fail("it was answered"), { signal })
    signal.aborted = true
    await disk.answerAll()
    expect(disk.disk.log).toEqual(["write 0", "flush", "read 1024"])
  })

  it("does not answer a command that the guest gave up by sending another", async () => {
    const { disk, drive } = setUp(new LateDisk())
    drive.writeDma(0, bytes(512, 1))
    drive.readDma(512, 1024)
    await disk.answerAll()
    expect(disk.disk.log).toEqual(["write 0", "flush", "read 512"])
    expect([drive.data, drive.interrupts]).toEqual([bytes(1024, 0), 1])
  })

  it("reports a failed read as an error of the drive, but not after a reset", async () => {
    const { disk, drive, errors } = setUp(new LateDisk())
    disk.disk.failures.set("read", failure)
    drive.readDma(0, 512)
    await disk.answerAll()
    expect([drive.status_reg, drive.error_reg, drive.interrupts]).toEqual([0x41, 0x40, 1])
    drive.readDma(0, 512)
    drive.device_reset()
    await disk.answerAll()
    expect([drive.status_reg, drive.error_reg, drive.interrupts]).toEqual([0x51, 1, 1])
    expect(errors).toEqual([failure, failure])
  })

  it("reports a failed DMA write as an error of the drive", async () => {
    const { disk, drive } = setUp(new LateDisk())
    disk.disk.failures.set("write", failure)
    drive.writeDma(0, bytes(512, 1))
    await disk.answerAll()
    expect([drive.status_reg, drive.error_reg, drive.interrupts]).toEqual([0x41, 4, 1])
    disk.disk.failures.clear()
    disk.disk.log.length = 0
    drive.readDma(0, 512)
    await disk.answerAll()
    expect(disk.disk.log).toEqual(["read 0"])
  })

  it("keeps a write that failed after it had completed for the guest, and repeats it before any read", async () => {
    const { disk, buffer, drive, errors } = setUp(new LateDisk())
    disk.disk.failures.set("write", failure)
    drive.writePio(0, bytes(512, 1))
    await disk.answerAll()
    expect([errors, drive.status_reg]).toEqual([[failure], 0x50])
    await expect(Promise.all([buffer.flush(), disk.answerAll()])).rejects.toBe(failure)
    drive.readDma(0, 512)
    await disk.answerAll()
    expect([drive.data, drive.status_reg]).toEqual([undefined, 0x41])
    disk.disk.failures.clear()
    drive.readDma(0, 512)
    await disk.answerAll()
    expect(drive.data).toEqual(bytes(512, 1))
    await Promise.all([buffer.flush(), disk.answerAll()])
  })

  it("repeats kept writes on `retry`", async () => {
    const { disk, buffer, drive } = setUp(new LateDisk())
    disk.disk.failures.set("flush", failure)
    drive.writePio(0, bytes(512, 1))
    await disk.answerAll()
    disk.disk.failures.clear()
    disk.disk.log.length = 0
    buffer.retry()
    await disk.answerAll()
    expect(disk.disk.log).toEqual(["write 0", "flush"])
  })

  it("bounds waiting writes, and reports the one too many to the guest", async () => {
    const { disk, drive, errors } = setUp(new LateDisk())
    const half = bytes(SIZE / 2, 1)
    for (let i = 0; i < 128; i++) drive.writePio(0, half)
    expect([errors, drive.status_reg]).toEqual([[], 0x50])
    drive.writePio(0, half)
    expect([errors, drive.status_reg]).toMatchObject([[{ code: "io" }], 0x41])
    await disk.answerAll()
    drive.writePio(0, half)
    expect([errors.length, drive.status_reg]).toEqual([1, 0x50])
    await disk.answerAll()
  })
})

describe("without the emulator", () => {
  it("a failed read is not answered, and the next one is", () => {
    const { disk, drive, errors } = setUp(new LoggedDisk(), { alone: true })
    disk.failures.set("read", failure)
    drive.readDma(0, 512)
    expect([errors, drive.interrupts, drive.data]).toEqual([[failure], 0, undefined])
    disk.failures.clear()
    drive.readDma(512, 512)
    expect([disk.log, drive.interrupts]).toEqual([["read 0", "read 512"], 1])
  })

  it("a failed write is kept", () => {
    const { disk, drive, errors } = setUp(new LoggedDisk(), { alone: true })
    disk.failures.set("write", failure)
    drive.writePio(0, bytes(512, 1))
    expect(errors).toEqual([failure])
    disk.failures.clear()
    drive.readDma(0, 512)
    expect(drive.data).toEqual(bytes(512, 1))
  })

  it("a disk that has lost a write fails reads", async () => {
    const { disk, drive, errors } = setUp(new LateDisk(), { alone: true })
    for (let i = 0; i < 129; i++) drive.writePio(0, bytes(SIZE / 2, 1))
    await disk.answerAll()
    drive.readDma(0, 512)
    await disk.answerAll()
    expect([errors.length, drive.data]).toEqual([2, undefined])
  })
})

describe("a saved state", () => {
  it("holds a reference to the disk, and is accepted for that disk alone", () => {
    const { buffer } = setUp(new LoggedDisk())
    const state = buffer.get_state()
    expect(JSON.stringify(state).length).toBeLessThan(100)
    expect(() => buffer.set_state(state)).not.toThrow()
    expect(() => v86Buffer(new MemoryBacking({ size: 512 })).set_state(state)).toThrow("a disk of 1048576 bytes, and this one has 512")
    expect(() => buffer.set_state([SIZE, bytes(SIZE, 0)])).toThrow("a disk of another kind")
    expect(() => buffer.set_state(undefined)).toThrow("a disk of another kind")
    expect(buffer.constructor).not.toBe(Object)
  })

  it("drops the answers of commands under way when it is restored", async () => {
    const { disk, buffer, drive } = setUp(new LateDisk())
    drive.writeDma(0, bytes(512, 1))
    buffer.set_state(buffer.get_state())
    await disk.answerAll()
    expect([disk.disk.log, drive.interrupts]).toEqual([["write 0", "flush"], 0])
  })
})

it("where v86 would copy the whole disk it gets an error, and no zeroes", () => {
  const { buffer } = setUp(new LoggedDisk())
  expect(() => buffer.buffer).toThrow(/v86 would copy the disk of 1048576 bytes/)
  let given: unknown[] = []
  buffer.get_buffer((...args) => (given = args))
  expect(given).toEqual([])
})

it("wrong arguments are refused", () => {
  expect(() => v86Buffer("disk.img" as unknown as VirtioBacking)).toThrow("v86Buffer: the backing must implement VirtioBacking")
  expect(
    () => v86Buffer(new MemoryBacking({ size: 512 }), { writethrough: true } as V86BufferOptions),
  ).toThrow('did you mean "writeThrough"?')
})
