/** Snapshots: lists, takes, applies, deletes and reads the internal snapshots of an open image. */
import { checkOptions, checkValue, type Rules } from "../../../options.ts"
import { BackingError } from "../../backing.ts"
import { encodeText } from "../../bytes/fields.ts"
import type { Qcow2Header } from "../format/header.ts"
import { readSnapshotTable, type Snapshot, type SnapshotTable } from "../format/snapshot-table.ts"
import { INCOMPATIBLE_BIT } from "../format/spec.ts"
import { hasFeature, headerGeometry } from "../format/header.ts"
import { applySnapshot, deleteSnapshot, takeSnapshot } from "./changes.ts"
import { newId, readableSnapshot, snapshotHeader, usableSnapshot } from "./find-snapshot.ts"
import { replaceClusters, type Replacement, zeroClustersOf } from "./replace-clusters.ts"
import type { VmStateSource } from "./vm-state.ts"
import type { WholeImage } from "./whole-image.ts"

/** A snapshot, for people and programs. */
export interface SnapshotInfo {
  readonly id: string
  readonly name: string
  /** Time of the snapshot, in milliseconds since 1970. */
  readonly date: number
  /** Running time of the guest until then, in nanoseconds. */
  readonly vmClock: bigint
  /** Bytes of VM state; 0 if the snapshot has only the disk. */
  readonly vmStateSize: number
  /** Bytes of the disk. */
  readonly diskSize: number
  /** Instructions that the guest had executed, if the VM counts them. */
  readonly icount: bigint | undefined
}

/** Options of `Snapshots.create`. */
export interface CreateSnapshotOptions {
  /** At most 255 bytes. Need not be unique, because the id is. */
  readonly name: string
  /** State of the machine to store with the disk: bytes, or a source that is read piece by piece. */
  readonly vmState?: Uint8Array | VmStateSource
  /** Running time of the guest, in nanoseconds. Default 0. */
  readonly vmClock?: bigint
  /** Instructions that the guest has executed. Default: unknown. */
  readonly icount?: bigint
  /** Milliseconds since 1970. Default: now. */
  readonly date?: number
}

const CREATE_SNAPSHOT_RULES: Rules<CreateSnapshotOptions> = {
  name: "string", vmState: "object?", vmClock: "any?", icount: "any?", date: "number?",
}

/** The methods of `Snapshots`. Over an asynchronous image file they return promises. */
export interface SnapshotActions {
  list(): readonly SnapshotInfo[] | Promise<readonly SnapshotInfo[]>
  create(options: CreateSnapshotOptions): SnapshotInfo | Promise<SnapshotInfo>
  apply(idOrName: string): void | Promise<void>
  delete(idOrName: string): void | Promise<void>
}

/** Bytes of a name: QEMU cuts longer ones. */
const LONGEST_NAME = 255

/** A read-only disk of the same file, with another header. */
export interface SnapshotView {
  close(): void
}

export interface SnapshotsOptions<View extends SnapshotView> {
  readonly image: WholeImage
  /** Opens a read-only view with that header. `hasBacking`: the backing image supplies unallocated clusters. */
  readonly view: (header: Qcow2Header, options: { readonly hasBacking: boolean }) => View
  /** Tells a view that its L1 table has moved, and may be longer. */
  moved(view: View, table: Pick<Qcow2Header, "l1TableOffset" | "l1Size">): void
  /** Calls `work`, which replaces the disk by one of `size` bytes with other content. */
  readonly replacing: (size: number, work: () => void) => void
  /** Calls `work`, and marks the image corrupt if it throws `CorruptMetadata`. */
  readonly noting: <T>(work: () => T) => T
}

/**
 * The snapshots of an image. Every change is one switch of the header: a crash leaves the old or the new image, and leaked clusters at
 * worst. After an error the image has not changed. Callers name a snapshot by its id or its name; an id has precedence (QC-SNAP-11).
 */
export class Snapshots<View extends SnapshotView> implements SnapshotActions {
  readonly #image: WholeImage
  readonly #options: SnapshotsOptions<View>
  /** Open views, with the offset of their L1 table. */
  readonly #views = new Map<View, number>()

  constructor(options: SnapshotsOptions<View>) {
    this.#image = options.image
    this.#options = options
  }

  /** All snapshots, in the order of the table. */
  list(): readonly SnapshotInfo[] {
    return this.#table().snapshots.map((snapshot) => this.#describe(snapshot))
  }

  /**
   * Takes a snapshot of the disk. A guest may be running: data that it has not flushed from its own caches is not included.
   * @throws BackingError `invalid-argument`, `read-only`, `no-space` if refcounts are too narrow or the table is full
   */
  create(options: CreateSnapshotOptions): SnapshotInfo {
    checkOptions("snapshots.create", options, CREATE_SNAPSHOT_RULES)
    const { name, vmClock = 0n, icount, date = Date.now(), vmState } = options
    return this.#change((known) => {
      this.#checkName(name)
      const taken = takeSnapshot(this.#image, known, {
        id: newId(known.snapshots),
        name,
        dateSeconds: Math.floor(date / 1000),
        dateNanoseconds: Math.floor(date % 1000) * 1_000_000,
        vmClockNanoseconds: BigInt.asUintN(64, vmClock),
        icount,
        vmState: vmState instanceof Uint8Array ? bytesAsState(vmState) : vmState,
      })
      return this.#describe(taken)
    })
  }

  /**
   * Reverts the disk to the content and size of a snapshot, which stays. Stop the guest first: its disk changes.
   * @throws BackingError `not-found`; `unsupported` for another size in version 2
   */
  apply(idOrName: string): void {
    this.#change((known) => {
      const snapshot = this.#readable(known, idOrName)
      const { size, version } = this.#image.header
      if (version < 3 && snapshot.diskSize !== undefined && snapshot.diskSize !== size) {
        const message = `the disk has ${snapshot.diskSize} bytes in snapshot "${snapshot.name}", and ${size} now; ` +
          "version 2 cannot hold both: change the image to version 3 with amend -o compat=1.1"
        throw this.#error("unsupported", message)
      }
      this.#options.replacing(this.#diskSize(snapshot), () => applySnapshot(this.#image, known, snapshot))
    })
  }

  /** Deletes a snapshot. Views of it are closed. @throws BackingError `not-found` */
  delete(idOrName: string): void {
    this.#change((known) => {
      checkWord(idOrName)
      const snapshot = usableSnapshot(known.snapshots, idOrName, this.#image.header, this.#image.file.path)
      deleteSnapshot(this.#image, known, snapshot)
      this.#closeViews(snapshot)
    })
  }

  /**
   * For operations between images: replaces guest clusters of the snapshot at `index` of the list. Open views of it see the new ones.
   * @throws BackingError with nothing to undo
   */
  replaceClusters(index: number, replacements: readonly Replacement[]): void {
    if (replacements.length === 0) return
    this.#change((known) => {
      const snapshot = this.#at(known, index)
      const { l1TableOffset, l1Size } = replaceClusters(this.#image, known, snapshot, replacements)
      for (const [view, place] of this.#views) {
        if (place !== snapshot.l1TableOffset) continue
        this.#options.moved(view, { l1TableOffset, l1Size })
        this.#views.set(view, l1TableOffset)
      }
    })
  }

  /** For operations between images: the disk of the snapshot at `index` of the list. Close it before any change. */
  openAt(index: number): View {
    return this.#options.noting(() => this.#view(this.#at(this.#table(), index)))
  }

  /** Removes some zero flags of snapshots, because version 2 has none. Call it until it returns true: then none is left. */
  expandZeroes({ hasBacking }: { readonly hasBacking: boolean }): boolean {
    return this.#options.noting(() => {
      const known = this.#table()
      const { file, header } = this.#image
      const geometry = headerGeometry(header)
      const content = hasBacking ? new Uint8Array(geometry.clusterSize) : "nothing"
      for (let index = 0; index < known.snapshots.length; index++) {
        const zeroes = zeroClustersOf({ file, geometry }, this.#at(known, index))
        if (zeroes.length === 0) continue
        this.replaceClusters(index, zeroes.map((cluster) => ({ cluster, content })))
        return false
      }
      return true
    })
  }

  #closeViews({ l1TableOffset }: Snapshot): void {
    for (const [view, place] of this.#views) {
      if (place !== l1TableOffset) continue
      this.#views.delete(view)
      view.close()
    }
  }

  /** Opens the disk of a snapshot, read-only. Close it before the image. @throws BackingError `not-found` */
  open(idOrName: string): View {
    return this.#options.noting(() => {
      const snapshot = this.#readable(this.#table(), idOrName)
      return this.#track(snapshot, this.#view(snapshot))
    })
  }

  /** Opens the VM state of a snapshot, read-only: `size` bytes of the view from `offset`. @throws BackingError `not-found` */
  openVmState(idOrName: string): { readonly view: View; readonly offset: number; readonly size: number } {
    return this.#options.noting(() => {
      const snapshot = this.#readable(this.#table(), idOrName)
      const { l2Coverage } = headerGeometry(this.#image.header)
      const offset = Math.ceil(this.#diskSize(snapshot) / l2Coverage) * l2Coverage
      const size = snapshot.vmStateSize
      if (!Number.isSafeInteger(offset + size)) throw this.#error("invalid-format", `its VM state of ${size} bytes is longer than any file`)
      const header = { ...snapshotHeader(this.#image.header, snapshot), size: offset + size }
      return { view: this.#track(snapshot, this.#options.view(header, { hasBacking: false })), offset, size }
    })
  }

  #view(snapshot: Snapshot): View {
    return this.#options.view(snapshotHeader(this.#image.header, snapshot), { hasBacking: true })
  }

  #at({ snapshots }: SnapshotTable, index: number): Snapshot {
    const snapshot = snapshots[index]
    if (snapshot === undefined) throw this.#error("invalid-argument", `there is no snapshot ${index}`)
    return readableSnapshot([snapshot], snapshot.id, this.#image.header, this.#image.file.path)
  }

  #track(snapshot: Snapshot, view: View): View {
    this.#views.set(view, snapshot.l1TableOffset)
    return view
  }

  #change<T>(work: (known: SnapshotTable) => T): T {
    return this.#options.noting(() => {
      this.#image.writable()
      if (hasFeature(this.#image.header.incompatibleFeatures, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE)) {
        throw this.#error("unsupported", "with an external data file there are no internal snapshots: its data is overwritten in place")
      }
      return work(this.#table())
    })
  }

  #table(): SnapshotTable {
    return readSnapshotTable(this.#image.imageFile, this.#image.header)
  }

  #readable(known: SnapshotTable, idOrName: string): Snapshot {
    checkWord(idOrName)
    return readableSnapshot(known.snapshots, idOrName, this.#image.header, this.#image.file.path)
  }

  #checkName(name: string): void {
    const { length } = encodeText(name)
    if (length > LONGEST_NAME) throw this.#error("invalid-argument", `the name of ${length} bytes is longer than ${LONGEST_NAME}`)
  }

  #diskSize({ diskSize }: Snapshot): number {
    return diskSize ?? this.#image.header.size
  }

  #describe(snapshot: Snapshot): SnapshotInfo {
    const { id, name, dateSeconds, dateNanoseconds, vmClockNanoseconds: vmClock, vmStateSize, icount } = snapshot
    const date = dateSeconds * 1000 + Math.floor(dateNanoseconds / 1_000_000)
    return { id, name, date, vmClock, vmStateSize, diskSize: this.#diskSize(snapshot), icount }
  }

  #error(code: "invalid-argument" | "unsupported" | "invalid-format", message: string): BackingError {
    return new BackingError(code, message, { path: this.#image.file.path })
  }
}

/** @throws TypeError */
function checkWord(idOrName: string): void {
  checkValue("snapshots", "idOrName", idOrName, "string")
}

function bytesAsState(bytes: Uint8Array): VmStateSource {
  return { size: bytes.length, read: (buffer, offset) => buffer.set(bytes.subarray(offset, offset + buffer.length)) }
}
