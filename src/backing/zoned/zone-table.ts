/**
 * ZoneTable: the states and write pointers of a disk's zones, and their transitions ([VIRTIO] 5.2.6). It moves no data. An error leaves
 * everything unchanged.
 */
import { BackingError } from "../backing.ts"
import type { Zone, ZoneState, ZoneType } from "./contract.ts"

/** The division of a disk into zones, and its limits. Bytes, and numbers of zones. */
export interface ZoneShape {
  readonly size: number
  readonly zoneSize: number
  /** Of every sequential zone; the last one may be shorter. */
  readonly zoneCapacity: number
  /** The first so many zones are conventional; the others are written sequentially. */
  readonly conventionalZones: number
  readonly maxOpenZones: number
  readonly maxActiveZones: number
  readonly maxAppendSize: number
  readonly writeGranularity: number
}

/** The durable part of a zone, from which its state is derived. */
export type ZoneCondition = "normal" | "full" | "read-only" | "offline"

/** The state after the disk has been opened. */
export interface StoredZone {
  /** Bytes written, from its start on. */
  readonly written: number
  readonly condition: ZoneCondition
}

export class ZoneTable {
  readonly shape: ZoneShape
  readonly count: number
  readonly #states: ZoneState[]
  /** Bytes written in each zone, from its start on. */
  readonly #written: Float64Array
  /** Implicitly open zones, oldest first: the first one is closed to make room for another. */
  readonly #implicitlyOpen = new Set<number>()
  #open = 0
  #active = 0

  constructor(shape: ZoneShape) {
    this.shape = shape
    this.count = Math.ceil(shape.size / shape.zoneSize)
    this.#states = Array.from({ length: this.count }, (_, index) => (index < shape.conventionalZones ? "none" : "empty"))
    this.#written = new Float64Array(this.count)
  }

  /** Zones that are open, and zones that are open or closed. */
  get resources(): { readonly open: number; readonly active: number } {
    return { open: this.#open, active: this.#active }
  }

  /** The zone that holds byte `offset`, which is inside the disk. */
  indexOf(offset: number): number {
    return Math.floor(offset / this.shape.zoneSize)
  }

  start(index: number): number {
    return index * this.shape.zoneSize
  }

  type(index: number): ZoneType {
    return index < this.shape.conventionalZones ? "conventional" : "sequential-required"
  }

  state(index: number): ZoneState {
    return this.#states[index] ?? "offline"
  }

  /** Bytes that can be written from the start of the zone on. */
  capacity(index: number): number {
    const { size, zoneSize, zoneCapacity } = this.shape
    return Math.min(this.type(index) === "conventional" ? zoneSize : zoneCapacity, size - this.start(index))
  }

  /** Bytes written from the start of the zone on. The rest reads as zeroes. */
  written(index: number): number {
    return this.type(index) === "conventional" ? this.capacity(index) : (this.#written[index] ?? 0)
  }

  zone(index: number): Zone {
    const [type, state, start, capacity] = [this.type(index), this.state(index), this.start(index), this.capacity(index)]
    return { type, state, start, capacity, writePointer: start + this.written(index) }
  }

  stored(index: number): StoredZone {
    const state = this.state(index)
    return {
      written: this.#written[index] ?? 0,
      condition: state === "full" || state === "read-only" || state === "offline" ? state : "normal",
    }
  }

  /** Restores a stored zone: an open zone becomes closed, or empty if nothing was written to it. */
  load(index: number, { written, condition }: StoredZone): void {
    if (this.type(index) === "conventional") return
    this.#written[index] = written
    const full = written === this.capacity(index)
    this.#become(index, condition !== "normal" ? condition : full ? "full" : written > 0 ? "closed" : "empty")
  }

  // --- Writes ---

  /** Whether `length` bytes, more than 0, can be written at `offset` of a sequential zone now. @throws BackingError */
  checkWrite(index: number, offset: number, length: number): void {
    this.#checkWritable(index)
    const from = offset - this.start(index)
    if (from !== this.written(index)) {
      throw this.#refused(
        "zone-unaligned",
        index,
        `a write at byte ${offset}, but its write pointer is at ${this.start(index) + this.written(index)}`,
      )
    }
    this.checkAppend(index, length)
  }

  /** Whether `length` bytes, more than 0, can be written at the write pointer of a sequential zone now. @throws BackingError */
  checkAppend(index: number, length: number): void {
    this.#checkWritable(index)
    if (length % this.shape.writeGranularity !== 0) {
      throw this.#refused("zone-unaligned", index, `a write of ${length} bytes, which is not a multiple of ${this.shape.writeGranularity}`)
    }
    const left = this.capacity(index) - this.written(index)
    if (length > left) throw this.#refused("zone-invalid", index, `a write of ${length} bytes, but ${left} are left in it`)
    this.#checkResources(index)
  }

  /** `length` bytes have been written at the write pointer, after `checkWrite` or `checkAppend`. */
  wrote(index: number, length: number): void {
    if (this.state(index) === "empty" || this.state(index) === "closed") this.#openZone(index, "implicitly-open")
    const written = this.written(index) + length
    this.#written[index] = written
    if (written === this.capacity(index)) this.#become(index, "full")
  }

  // --- Zone management ---

  open(index: number): void {
    this.#checkWritable(index)
    if (this.state(index) === "explicitly-open") return
    this.#checkResources(index)
    this.#openZone(index, "explicitly-open")
  }

  close(index: number): void {
    const state = this.state(index)
    if (state === "closed") return
    if (state !== "implicitly-open" && state !== "explicitly-open") throw this.#refused("zone-invalid", index, "it is not open")
    this.#become(index, this.written(index) === 0 ? "empty" : "closed")
  }

  /** The record that finishing the zone would store; undefined if it is full already. @throws BackingError */
  finished(index: number): StoredZone | undefined {
    const state = this.state(index)
    if (state === "full") return undefined
    this.#checkWritable(index)
    return { written: this.#written[index] ?? 0, condition: "full" }
  }

  finish(index: number): void {
    this.#become(index, "full")
  }

  /** Whether the zone is not empty. @throws BackingError when it cannot be reset */
  checkReset(index: number): boolean {
    const state = this.state(index)
    if (state === "none" || state === "read-only" || state === "offline") {
      throw this.#refused("zone-invalid", index, `it is ${this.#described(index)}`)
    }
    return state !== "empty"
  }

  reset(index: number): void {
    this.#written[index] = 0
    this.#become(index, "empty")
  }

  /** Makes a zone read-only or offline, like a failing drive. */
  fail(index: number, state: "read-only" | "offline"): void {
    if (this.type(index) === "conventional") throw this.#refused("zone-invalid", index, "a conventional zone has no such state")
    this.#become(index, state)
  }

  /** @throws BackingError for a zone that cannot be read */
  checkReadable(index: number): void {
    if (this.state(index) === "offline") throw this.#refused("zone-invalid", index, "it is offline")
  }

  #checkWritable(index: number): void {
    const state = this.state(index)
    const isWritable = state === "empty" || state === "implicitly-open" || state === "explicitly-open" || state === "closed"
    if (!isWritable) throw this.#refused("zone-invalid", index, `it is ${this.#described(index)}`)
  }

  /** Checks that the zone can be opened. Implicitly open zones are closed to make room. */
  #checkResources(index: number): void {
    const state = this.state(index)
    const { maxOpenZones, maxActiveZones } = this.shape
    if (state === "empty" && maxActiveZones !== 0 && this.#active >= maxActiveZones) {
      throw this.#refused("zone-active-limit", index, `${this.#active} zones are active, which is the most`)
    }
    const opens = state === "empty" || state === "closed"
    if (opens && maxOpenZones !== 0 && this.#open >= maxOpenZones && this.#implicitlyOpen.size === 0) {
      throw this.#refused("zone-open-limit", index, `${this.#open} zones are open, which is the most`)
    }
  }

  #openZone(index: number, state: "implicitly-open" | "explicitly-open"): void {
    const { maxOpenZones } = this.shape
    const [oldest] = this.#implicitlyOpen
    const isOpen = this.state(index) === "implicitly-open"
    // A zone that a write has opened has something written in it.
    if (!isOpen && maxOpenZones !== 0 && this.#open >= maxOpenZones && oldest !== undefined) this.#become(oldest, "closed")
    this.#become(index, state)
  }

  #become(index: number, state: ZoneState): void {
    const before = this.state(index)
    this.#open += Number(isOpen(state)) - Number(isOpen(before))
    this.#active += Number(isActive(state)) - Number(isActive(before))
    this.#implicitlyOpen.delete(index)
    if (state === "implicitly-open") this.#implicitlyOpen.add(index)
    this.#states[index] = state
  }

  #described(index: number): string {
    return this.type(index) === "conventional" ? "conventional" : this.state(index)
  }

  #refused(code: "zone-invalid" | "zone-unaligned" | "zone-open-limit" | "zone-active-limit", index: number, why: string): BackingError {
    return new BackingError(code, `zone ${index}: ${why}`, { offset: this.start(index) })
  }
}

function isOpen(state: ZoneState): boolean {
  return state === "implicitly-open" || state === "explicitly-open"
}

function isActive(state: ZoneState): boolean {
  return isOpen(state) || state === "closed"
}
