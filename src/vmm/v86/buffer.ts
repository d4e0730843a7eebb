/** v86Buffer: any disk as v86's own hda, hdb, cdrom or fda, for guests without a virtio driver. */
import { BackingError, checkBacking, checkRange, type VirtioBacking } from "../../backing/backing.ts"
import { checkOptions, type Rules } from "../../options.ts"
import { BufferQueue, type BufferRequest } from "./buffer-queue.ts"
import { findDrive, type V86Drive } from "./drive.ts"

/** Options of `v86Buffer`. */
export interface V86BufferOptions {
  /**
   * Returns the disk's emulator: `() => emulator`. With it, the guest gets an error at once, like a hardware error. Without it, a failed
   * command is never answered, and the guest waits for its timeout (Linux: 30 seconds).
   */
  readonly emulator?: () => unknown
  /** Called with each failure of the disk. In any case `lastError` keeps the last one. */
  readonly onError?: (error: unknown) => void
  /**
   * True (default): a write is flushed before it is acknowledged, because v86 does not pass on FLUSH CACHE commands. False: faster, but
   * writes since the last `flush` may be lost when the host stops.
   */
  readonly writeThrough?: boolean
}

const V86_BUFFER_RULES: Rules<V86BufferOptions> = { emulator: "function?", onError: "function?", writeThrough: "boolean?" }

const SECTOR = 512
/** Bytes of a CD's block. QEMU and v86 fill the last one with zeroes if the file ends inside it. */
const CD_BLOCK = 2048
/** Maximum of bytes of one command: 65535 blocks of a CD. */
const LARGEST_COMMAND = 65_535 * CD_BLOCK
/** Maximum of bytes of writes that wait for an asynchronous disk. */
const MOST_WAITING = 64 << 20
const STATE_TAG = "vioblk-disk-1"

/** Options that v86 passes to `get`. */
export interface V86GetOptions {
  /** Aborted when the guest resets the drive: then the command must not be answered. */
  readonly signal?: { readonly aborted: boolean }
}

/** A disk as v86 calls it. The names are v86's. */
export interface V86Buffer {
  /** Bytes. The guest cannot reach a last part of the disk that does not fill a sector. */
  readonly byteLength: number
  /** v86 stores a function here, and `load` calls it. */
  onload: ((event: object) => void) | undefined
  onprogress: ((event: object) => void) | undefined
  /** v86 reads this to copy a whole disk. @throws Error always */
  readonly buffer: never
  load(): void
  get(start: number, length: number, done: (bytes: Uint8Array) => void, options?: V86GetOptions): void
  get_and_cache(start: number, length: number, done: (bytes: Uint8Array) => void): void
  get_from_cache(start: number, length: number): Uint8Array | undefined
  set(start: number, bytes: Uint8Array, done: () => void): void
  get_buffer(done: (buffer?: undefined) => void): void
  /** A reference to the disk: its size, without its content. */
  get_state(): unknown[]
  /** @throws Error for the state of another disk */
  set_state(state: unknown): void
  /** The last failure of the disk, undefined if there was none. */
  readonly lastError: unknown
  /** Waits for all writes and flushes the backing. @throws BackingError (as a rejection) when a write cannot be done */
  flush(): Promise<void>
  /** Retries writes that failed after they were acknowledged. The guest's next command does so too. */
  retry(): void
}

/**
 * `backing` for v86's options `hda`, `hdb`, `cdrom`, `fda` and `fdb`: `new V86({ hda: v86Buffer(openImage("disk.qcow2")), ... })`. For
 * guests with a virtio driver, `attachToV86` is faster.
 *
 * There is no cache: writes go to the backing. A write that fails after it was acknowledged (programmed I/O on an asynchronous backing, or
 * no option `emulator`) is kept, and no command is answered until a retry succeeds.
 *
 * `emulator.save_state()` includes only a reference to the disk: stop the emulator, await `flush`, save the state, copy the image. The
 * caller closes the backing. A floppy must have a standard size (for instance 1,474,560 bytes); v86 would copy any other.
 *
 * @throws TypeError for a wrong backing or option
 */
export function v86Buffer(backing: VirtioBacking, options: V86BufferOptions = {}): V86Buffer {
  checkBacking("v86Buffer", backing)
  checkOptions("v86Buffer", options, V86_BUFFER_RULES)
  return new BackingBuffer(backing, options)
}

/** A class, because v86 saves the state of plain objects in another way. */
class BackingBuffer implements V86Buffer {
  onload: ((event: object) => void) | undefined
  onprogress: ((event: object) => void) | undefined
  lastError: unknown
  readonly #backing: VirtioBacking
  readonly #options: V86BufferOptions
  readonly #queue: BufferQueue
  /** The first sector, whose partition table gives v86 the disk's geometry before the machine exists. */
  #first: Uint8Array | undefined
  /** Set after the loss of a write that the guest takes for done: then the disk fails every command. */
  #lost: BackingError | undefined

  constructor(backing: VirtioBacking, options: V86BufferOptions) {
    this.#backing = backing
    this.#options = options
    this.#queue = new BufferQueue(backing, { writeThrough: options.writeThrough ?? true, onError: (error) => this.#tell(error) })
  }

  get byteLength(): number {
    return this.#backing.size - (this.#backing.size % SECTOR)
  }

  get buffer(): never {
    const use = "give it to new V86 itself, in place of an object with a buffer or a url"
    throw new Error(`v86Buffer: v86 would copy the disk of ${this.byteLength} bytes; ${use}, and let a floppy have the size of one`)
  }

  load(): void {
    this.onload?.({})
  }

  get(start: number, length: number, done: (bytes: Uint8Array) => void, options: V86GetOptions = {}): void {
    this.#read({ start, length, done, isCancelled: () => options.signal?.aborted === true, fail: () => this.#failCommand("read") })
  }

  /** v86 calls it for the first sector, and does not start before it is answered. */
  get_and_cache(start: number, length: number, done: (bytes: Uint8Array) => void): void {
    const keep = (bytes: Uint8Array): void => {
      if (start === 0) this.#first = bytes.slice()
      done(bytes)
    }
    // The guest gets the error when it reads the sector itself.
    const fail = (): boolean => {
      done(new Uint8Array(0))
      return true
    }
    this.#read({ start, length, done: keep, isCancelled: () => false, fail })
  }

  get_from_cache(start: number, length: number): Uint8Array | undefined {
    return start === 0 && length === this.#first?.length ? this.#first : undefined
  }

  set(start: number, bytes: Uint8Array, done: () => void): void {
    const refusal = this.#refusalOfWrite(start, bytes.length)
    if (refusal !== undefined) {
      if (!this.#failCommand("write") && refusal.code === "io") this.#lost = refusal
      return this.#tell(refusal)
    }
    const write: BufferRequest = {
      kind: "write", start, bytes: bytes.slice(), // v86 uses the array for its next command
      answer: done, isCancelled: () => false,
      fail: () => (this.#queue.newest === write || this.#drive()?.awaitsWrite === true) && this.#failCommand("write"),
    }
    this.#queue.push(write)
  }

  get_buffer(done: (buffer?: undefined) => void): void {
    done()
  }

  get_state(): unknown[] {
    return [STATE_TAG, this.byteLength]
  }

  set_state(state: unknown): void {
    const [tag, size]: unknown[] = Array.isArray(state) ? state : []
    if (tag !== STATE_TAG) throw new Error("v86Buffer: the state was saved with a disk of another kind")
    if (size !== this.byteLength) {
      throw new Error(`v86Buffer: the state was saved with a disk of ${String(size)} bytes, and this one has ${this.byteLength}`)
    }
    this.#queue.abandon()
  }

  retry(): void {
    this.#queue.retry()
  }

  async flush(): Promise<void> {
    await this.#queue.drained()
    await this.#backing.flush?.()
  }

  #read({ start, length, done, ...rest }: ReadCommand): void {
    const refusal = this.#refusalOfRead(start, length)
    if (refusal !== undefined) {
      rest.fail()
      return this.#tell(refusal)
    }
    const bytes = new Uint8Array(length)
    const wanted = bytes.subarray(0, Math.min(length, this.byteLength - start))
    this.#queue.push({ kind: "read", start, bytes: wanted, answer: () => done(bytes), ...rest })
  }

  /** The guest chooses both numbers: a CD's commands have 32 bits for each, and v86 checks neither. */
  #refusalOfRead(start: number, length: number): BackingError | undefined {
    if (this.#lost !== undefined) return this.#lost
    const size = this.byteLength
    const end = Math.ceil(size / CD_BLOCK) * CD_BLOCK
    if (start < size && length <= LARGEST_COMMAND) return refusal(() => checkRange(end, start, length))
    return new BackingError("out-of-bounds", `the guest reads ${length} bytes from ${start} of a disk of ${size} bytes`, { offset: start })
  }

  #refusalOfWrite(start: number, length: number): BackingError | undefined {
    if (this.#lost !== undefined) return this.#lost
    if (this.#backing.readOnly) return new BackingError("read-only", "the guest writes to a read-only disk", { offset: start })
    if (this.#queue.waitingBytes + length > MOST_WAITING) {
      return new BackingError("io", `more than ${MOST_WAITING} bytes of writes wait for the disk; this one is lost`, { offset: start })
    }
    return refusal(() => checkRange(this.byteLength, start, length))
  }

  /** Comes last in handling an error, because `onError` may throw. */
  #tell(error: unknown): void {
    this.lastError = error
    this.#options.onError?.(error)
  }

  #drive(): V86Drive | undefined {
    const { emulator } = this.#options
    return emulator === undefined ? undefined : findDrive(emulator(), this)
  }

  #failCommand(kind: "read" | "write"): boolean {
    const drive = this.#drive()
    drive?.fail(kind)
    return drive !== undefined
  }
}

interface ReadCommand extends Pick<BufferRequest, "start" | "isCancelled" | "fail"> {
  readonly length: number
  readonly done: (bytes: Uint8Array) => void
}

function refusal(check: () => void): BackingError | undefined {
  try {
    check()
  } catch (error) {
    if (error instanceof BackingError) return error
    throw error
  }
  return undefined
}
