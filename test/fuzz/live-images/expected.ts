/** What an image must hold: its disk, its snapshots with their VM states, and what its bitmaps must know of. */
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { stateOf } from "../../crash/whole/operations.ts"
import { FlatModel } from "../../support/flat-model.ts"

const SECTOR = 512

export interface ExpectedSnapshot {
  readonly content: FlatModel
  /** Bytes of VM state. */
  readonly state: number
}

export interface ExpectedBitmap {
  readonly granularity: number
  isEnabled: boolean
  /** Numbers of sectors that have changed; more may be marked. */
  readonly sectors: Set<number>
}

export class Expected {
  disk: FlatModel
  /** By id, in the order of the table. */
  readonly snapshots = new Map<string, ExpectedSnapshot>()
  readonly bitmaps = new Map<string, ExpectedBitmap>()

  constructor(disk: FlatModel) {
    this.disk = disk
  }

  write(data: Uint8Array, offset: number): void {
    this.disk.write(data, offset)
    this.mark(offset, data.length)
  }

  /** These bytes have changed, or may have. */
  mark(offset: number, length: number): void {
    if (length === 0) return
    for (const { isEnabled, sectors } of this.bitmaps.values()) {
      if (!isEnabled) continue
      for (let at = Math.floor(offset / SECTOR); at * SECTOR < offset + length; at++) sectors.add(at)
    }
  }

  /** The disk is another one: what was cut off never comes back, and bits neither. */
  replace(disk: FlatModel): void {
    this.disk = disk
    for (const { sectors } of this.bitmaps.values()) {
      for (const at of [...sectors]) if (at * SECTOR >= disk.size) sectors.delete(at)
    }
  }

  resized(size: number): FlatModel {
    return FlatModel.of(this.disk.read(0, Math.min(this.disk.size, size)), size)
  }

  /** Whether `image` holds all of it. May throw `NotLoaded`. @throws Error that says what is wrong */
  checkSnapshots(image: Qcow2Image): void {
    const ids = image.snapshots.list().map(({ id }) => id)
    if (ids.join() !== [...this.snapshots.keys()].join()) throw new Error(`the snapshots are ${ids}, not ${[...this.snapshots.keys()]}`)
    for (const [id, snapshot] of this.snapshots) this.checkSnapshot(image, id, snapshot)
  }

  checkSnapshot(image: Qcow2Image, id: string, { content, state }: ExpectedSnapshot): void {
    const view = image.snapshots.open(id)
    try {
      expectContent(view, content, `snapshot ${id}`)
    } finally {
      view.close()
    }
    if (state === 0) return
    const { view: other, offset, size } = image.snapshots.openVmState(id)
    try {
      const found = new Uint8Array(size)
      other.pread(found, offset)
      if (Buffer.compare(found, stateOf(state)) !== 0) throw new Error(`the VM state of snapshot ${id} differs`)
    } finally {
      other.close()
    }
  }

  checkBitmaps(image: Qcow2Image): void {
    const names = image.bitmaps.list().map(({ name }) => name)
    if (names.join() !== [...this.bitmaps.keys()].join()) throw new Error(`the bitmaps are ${names}, not ${[...this.bitmaps.keys()]}`)
    for (const { name, isConsistent, isEnabled, granularity } of image.bitmaps.list()) {
      const expected = this.bitmaps.get(name)
      if (!isConsistent || isEnabled !== expected?.isEnabled || granularity !== expected.granularity) {
        throw new Error(`bitmap ${name} is ${isConsistent ? "" : "not consistent, "}${isEnabled ? "" : "not "}enabled`)
      }
      expectMarked(image, name, expected.sectors)
    }
  }

  /** Bitmaps after a `close` that failed: those that record and say that they can be relied on know of all changes. */
  checkStoredBitmaps(image: Qcow2Image): void {
    for (const { name, isConsistent, isEnabled } of image.bitmaps.list()) {
      const expected = this.bitmaps.get(name)
      if (isConsistent && isEnabled && expected?.isEnabled === true) expectMarked(image, name, expected.sectors)
    }
  }
}

function expectMarked(image: Qcow2Image, name: string, sectors: ReadonlySet<number>): void {
  const marked = new Set<number>()
  for (const { offset, length } of image.bitmaps.changed(name)) {
    for (let at = Math.floor(offset / SECTOR); at * SECTOR < offset + length; at++) marked.add(at)
  }
  const missed = [...sectors].find((sector) => !marked.has(sector))
  if (missed !== undefined) throw new Error(`sector ${missed} has changed, and bitmap ${name} does not say so`)
}

/** @throws Error at the first byte that is not what it must be */
export function expectContent(
  disk: { readonly size: number; pread(buffer: Uint8Array, offset: number): void },
  model: FlatModel,
  what: string,
): void {
  if (disk.size !== model.size) throw new Error(`${what} has ${disk.size} bytes, not ${model.size}`)
  const content = new Uint8Array(disk.size)
  disk.pread(content, 0)
  expectBytes(content, model, what)
}

export function expectBytes(content: Uint8Array, model: FlatModel, what: string): void {
  if (content.length !== model.size) throw new Error(`${what} has ${content.length} bytes, not ${model.size}`)
  const difference = model.firstDifference(content, 0)
  if (difference >= 0) throw new Error(`byte ${difference} of ${what} is ${content[difference]}, not ${model.read(difference, 1)[0]}`)
}
