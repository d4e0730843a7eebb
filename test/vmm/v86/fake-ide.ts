/**
 * FakeIde: the calls that v86 0.5.462 makes on a disk of its own, in the order in which it makes them and with what it does before and
 * after (src/ide.js, src/floppy.js, src/dma.js, src/browser/starter.js). test/linux runs the real one.
 */
import type { V86Buffer } from "../../../src/vmm/v86/buffer.ts"

/** A drive, under v86's names. */
export class FakeDrive {
  buffer: V86Buffer | undefined
  is_atapi = false
  current_command = -1
  status_reg = 0x50
  error_reg = 0
  readonly channel = { dma_status: 0 }
  interrupts = 0
  sense: readonly number[] = []
  /** What the last read put into the drive. */
  data: Uint8Array | undefined
  readonly #running = new Set<AbortController>()
  readonly #cancelled = new Set<AbortController>()

  constructor(buffer: V86Buffer) {
    this.buffer = buffer
  }

  /** READ DMA. */
  readDma(start: number, length: number): void {
    this.current_command = 0xc8
    this.status_reg = 0x58
    this.channel.dma_status |= 1
    this.#read(start, length, (data) => {
      this.data = data
      this.status_reg = 0x50
      this.channel.dma_status &= ~1
      this.current_command = -1
      this.push_irq()
    })
  }

  /** WRITE DMA: the guest is told once the disk is done. */
  writeDma(start: number, bytes: Uint8Array): void {
    this.current_command = 0xca
    this.status_reg = 0x58
    this.channel.dma_status |= 1
    this.buffer?.set(start, bytes, () => {
      this.status_reg = 0x50
      this.push_irq()
      this.channel.dma_status &= ~1
      this.current_command = -1
    })
  }

  /** WRITE SECTORS: the guest is told before the disk has the data, and the array is used again. */
  writePio(start: number, bytes: Uint8Array): void {
    this.current_command = 0x30
    const data = bytes.slice()
    this.status_reg = 0x50
    this.push_irq()
    this.buffer?.set(start, data, () => undefined)
    data.fill(0xee)
  }

  /** A reset of the channel. */
  device_reset(): void {
    this.status_reg = 0x51
    this.error_reg = 1
    this.cancel_io_operations()
  }

  cancel_io_operations(): void {
    for (const controller of this.#running) {
      this.#cancelled.add(controller)
      controller.abort()
    }
    this.#running.clear()
  }

  push_irq(): void {
    this.interrupts++
  }

  atapi_check_condition_response(key: number, additional: number): void {
    this.sense = [key, additional]
    this.status_reg = 0x41
    this.error_reg = key << 4
  }

  #read(start: number, length: number, done: (data: Uint8Array) => void): void {
    const controller = new AbortController()
    this.#running.add(controller)
    this.buffer?.get(start, length, (data) => {
      if (this.#cancelled.delete(controller)) return
      this.#running.delete(controller)
      done(data)
    }, { signal: controller.signal })
  }
}

/** A `V86` object with a drive, and a floppy drive. */
export class FakeEmulator {
  readonly drive: FakeDrive
  readonly floppy: { buffer: V86Buffer | undefined }
  /** What the floppy controller ended commands with. */
  readonly floppyResults: (readonly number[])[] = []
  readonly v86: unknown

  constructor(buffer: V86Buffer, place: "hda" | "cdrom" | "fda" = "hda") {
    this.drive = new FakeDrive(buffer)
    this.drive.is_atapi = place === "cdrom"
    this.floppy = { buffer: place === "fda" ? buffer : undefined }
    if (place === "fda") this.drive.buffer = undefined
    const empty = { buffer: undefined }
    const channel = { master: this.drive, slave: empty }
    const fdc = { drives: [this.floppy, empty], end_read_write: (...status: number[]) => this.floppyResults.push(status) }
    const ide = place === "cdrom"
      ? { primary: undefined, secondary: channel }
      : { primary: channel, secondary: { master: empty, slave: empty } }
    this.v86 = { cpu: { devices: { ide, fdc } } }
  }
}

/** Loads `buffer` as the constructor of `V86` does. Resolves once v86 would make the machine. */
export async function load(buffer: V86Buffer): Promise<void> {
  await new Promise<void>((resolve) => {
    buffer.onload = () => resolve()
    buffer.load()
  })
  await new Promise<unknown>((resolve) => buffer.get_and_cache(0, 512, resolve))
}
