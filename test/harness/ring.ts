/** A split virtqueue and block requests, written byte by byte into the RAM of a Machine. Layouts from [VIRTIO] 2.7 and 5.2.6, typed anew. */
import type { Machine } from "../../src/vmm/machine.ts"
import type { Rings } from "./guest.ts"

export const NEXT = 1
export const WRITE = 2
export const INDIRECT = 4
export const IN = 0
export const OUT = 1
export const FLUSH = 4
export const GET_ID = 8

/** What status bytes hold before the device has written them. */
export const UNTOUCHED = 0xaa

export interface RingOptions {
  /** Default 16. */
  readonly size?: number
  /** Default 0x10000; a multiple of 4096. */
  readonly base?: number
  /** Where buffers lie: 0x2000 bytes for each request. Default 0x40000. */
  readonly buffers?: number
}

/** A request in RAM. */
export interface Request {
  readonly head: number
  readonly header: number
  readonly data: number
  readonly statusAt: number
}

/** The parts are laid out as the legacy interface has it, which suits the modern one as well. */
export class Ring implements Rings {
  readonly vm: Machine
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  readonly buffers: number

  constructor(vm: Machine, options: RingOptions = {}) {
    this.vm = vm
    this.size = options.size ?? 16
    this.desc = options.base ?? 0x1_0000
    this.avail = this.desc + 16 * this.size
    this.used = this.desc + Math.ceil((16 * this.size + 6 + 2 * this.size) / 4096) * 4096
    this.buffers = options.buffers ?? 0x4_0000
  }

  /** RAM, asked for anew: it may have been replaced. */
  get ram(): DataView {
    const { buffer, byteOffset, byteLength } = this.vm.ram
    return new DataView(buffer, byteOffset, byteLength)
  }

  /** All three parts zeroed, as a driver must leave them to the device. */
  clear(): this {
    this.vm.ram.fill(0, this.desc, this.used + 6 + 8 * this.size)
    return this
  }

  describe(index: number, address: number, length: number, flags: number, next = 0, table = this.desc): void {
    const { ram } = this
    const at = table + 16 * index
    ram.setUint32(at, address % 2 ** 32, true)
    ram.setUint32(at + 4, Math.floor(address / 2 ** 32), true)
    ram.setUint32(at + 8, length, true)
    ram.setUint16(at + 12, flags, true)
    ram.setUint16(at + 14, next, true)
  }

  /** Makes `head` available. */
  publish(head: number): void {
    this.ram.setUint16(this.avail + 4 + 2 * (this.availIdx % this.size), head, true)
    this.availIdx++
  }

  get availIdx(): number {
    return this.ram.getUint16(this.avail + 2, true)
  }

  set availIdx(value: number) {
    this.ram.setUint16(this.avail + 2, value, true)
  }

  set availFlags(value: number) {
    this.ram.setUint16(this.avail, value, true)
  }

  set usedEvent(value: number) {
    this.ram.setUint16(this.avail + 4 + 2 * this.size, value, true)
  }

  get usedIdx(): number {
    return this.ram.getUint16(this.used + 2, true)
  }

  usedEntry(index: number): { readonly id: number; readonly length: number } {
    const at = this.used + 4 + 8 * (index % this.size)
    return { id: this.ram.getUint32(at, true), length: this.ram.getUint32(at + 4, true) }
  }

  /** Header, `length` bytes of data (none for 0) and status in descriptors 3*slot and up; not yet made available. */
  prepare(type: number, sector: number, length: number, slot = 0): Request {
    const header = this.buffers + 0x2000 * slot
    const request = { head: 3 * slot, header, statusAt: header + 0x10, data: header + 0x1000 }
    const { ram } = this
    ram.setUint32(header, type, true)
    ram.setUint32(header + 4, 0, true)
    ram.setUint32(header + 8, sector % 2 ** 32, true)
    ram.setUint32(header + 12, Math.floor(sector / 2 ** 32), true)
    ram.setUint8(request.statusAt, UNTOUCHED)
    const writable = type === IN || type === GET_ID ? WRITE : 0
    this.describe(request.head, header, 16, NEXT, length === 0 ? request.head + 2 : request.head + 1)
    if (length !== 0) this.describe(request.head + 1, request.data, length, NEXT | writable, request.head + 2)
    this.describe(request.head + 2, request.statusAt, 1, WRITE)
    return request
  }

  /** `prepare`, and made available. */
  request(type: number, sector: number, length: number, slot = 0): Request {
    const request = this.prepare(type, sector, length, slot)
    this.publish(request.head)
    return request
  }

  status(request: Request): number {
    return this.vm.ram[request.statusAt] ?? NaN
  }

  data(request: Request, length: number): Uint8Array {
    return this.vm.ram.slice(request.data, request.data + length)
  }
}
