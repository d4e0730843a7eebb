/** Random block requests, and what must become of each: an independent reading of [VIRTIO] 5.2.6 over a flat array. */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { FakeDisk } from "../harness/fake-disk.ts"
import type { Rng } from "../support/rng.ts"
import { header, ranges, type Request } from "../harness/requests.ts"
import { IOERR, OK, T, UNSUPP } from "../harness/words.ts"

export const SECTORS = 96
export const SERIAL = "fuzz"

/** A request that can be changed before it goes out. */
export interface FuzzRequest {
  type: number
  sector: bigint
  reserved: number
  out: Uint8Array
  in: number
}

/** What the device must answer. */
export interface Outcome {
  readonly status: number
  /** The first bytes of the writable data, as they must be afterwards; the rest stays as it was. */
  readonly data: Uint8Array
}

/** What was negotiated that decides about answers. */
export interface Negotiated {
  readonly discard: boolean
  readonly writeZeroes: boolean
  /** max_discard_seg and max_write_zeroes_seg, as the device states them. */
  readonly maxSegments: { readonly discard: number; readonly writeZeroes: number }
}

/** A disk for the ring fuzzers that knows what its device must answer. */
export interface FuzzDisk {
  readonly backing: VirtioBacking
  /** Features that its driver accepts beside those of every disk. */
  readonly features: readonly number[]
  /** A request that a sound driver could make. */
  sound(rng: Rng): FuzzRequest
  /** Changes one thing in the request: whatever comes of it, `judge` knows. Returns its name. */
  mutate(request: FuzzRequest, rng: Rng): string
  /** What must become of `request`, as if it were done now. */
  judge(request: FuzzRequest, negotiated: Negotiated): Outcome
  /** What is on the disk, and should not be. */
  problem(): string | undefined
  /** After requests that nobody could foretell. */
  takeAsItIs(): void
}

const NOTHING = new Uint8Array(0)

/** A disk of sectors, and the array that it should be. */
export class FlatFuzzDisk implements FuzzDisk {
  readonly backing = new FakeDisk({ size: 512 * SECTORS })
  readonly features = []
  readonly #model: Uint8Array

  constructor(rng: Rng) {
    this.backing.cache.set(rng.bytes(512 * SECTORS))
    this.#model = this.backing.cache.slice()
  }

  sound(rng: Rng): FuzzRequest {
    return soundRequest(rng)
  }

  mutate(request: FuzzRequest, rng: Rng): string {
    return mutateRequest(request, rng)
  }

  judge(request: FuzzRequest, negotiated: Negotiated): Outcome {
    return judge(request, this.#model, negotiated)
  }

  problem(): string | undefined {
    if (Buffer.compare(this.backing.cache, this.#model) === 0) return undefined
    return `the disk differs at ${this.#model.findIndex((byte, at) => byte !== this.backing.cache[at])}`
  }

  takeAsItIs(): void {
    this.#model.set(this.backing.cache)
  }
}

/** A request that a sound driver could make. */
export function soundRequest(rng: Rng): FuzzRequest {
  const type = rng.pick([T.IN, T.IN, T.OUT, T.OUT, T.FLUSH, T.GET_ID, T.DISCARD, T.WRITE_ZEROES])
  const count = rng.between(0, 4)
  const sector = BigInt(rng.below(SECTORS - count))
  const base = { type, sector, reserved: 0, out: NOTHING, in: 0 }
  if (type === T.IN) return { ...base, in: 512 * count }
  if (type === T.OUT) return { ...base, out: rng.bytes(512 * count) }
  if (type === T.GET_ID) return { ...base, in: rng.pick([20, 20, 4, 33]) }
  if (type === T.FLUSH) return base
  const segments = Array.from(
    { length: rng.between(1, 3) },
    () => ({ sector: rng.below(SECTORS - 4), sectors: rng.between(0, 4), flags: type === T.WRITE_ZEROES ? rng.below(2) : 0 }),
  )
  return { ...base, out: ranges(...segments) }
}

/** Changes one thing in the request: whatever comes of it, `judge` knows. Returns its name. */
export function mutateRequest(request: FuzzRequest, rng: Rng): string {
  const isRange = request.type === T.DISCARD || request.type === T.WRITE_ZEROES
  const mutations: Readonly<Record<string, () => void>> = {
    "another type": () => (request.type = rng.pick([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 13, 14, 15, 0x8000_0000, 0x8000_0001, rng.u32()])),
    "another sector": () => {
      const near = [SECTORS, SECTORS - 1, rng.below(SECTORS + 4)].map(BigInt)
      request.sector = rng.pick([...near, 1n << 23n, 1n << 32n, 1n << 53n, (1n << 55n) + 1n, (1n << 63n) + 3n, (1n << 64n) - 1n])
    },
    "reserved word": () => (request.reserved = rng.u32()),
    "longer or shorter data": () => {
      if (request.out.length > 0) request.out = rng.chance(0.5) ? Uint8Array.from([...request.out, 7]) : request.out.slice(1)
      else request.in += rng.pick([1, 511, 512])
    },
    "data in the other direction as well": () => {
      if (request.in > 0) request.out = rng.bytes(rng.between(1, 600))
      else request.in = rng.between(1, 600)
    },
    "a bit of the data": () => {
      if (request.out.length === 0) return
      const at = isRange ? rng.below(request.out.length) : 0
      request.out[at] = (request.out[at] ?? 0) ^ (1 << rng.below(8))
    },
  }
  const name = rng.pick(Object.keys(mutations))
  mutations[name]?.()
  return name
}

/** What must become of `request` on `disk`, which is changed accordingly. */
export function judge(request: FuzzRequest, disk: Uint8Array, negotiated: Negotiated): Outcome {
  const refuse = (status: number): Outcome => ({ status, data: NOTHING })
  switch (request.type) {
    case T.IN:
    case T.OUT: {
      const length = request.type === T.IN ? request.in : request.out.length
      if (length % 512 !== 0 || request.sector * 512n + BigInt(length) > BigInt(disk.length)) return refuse(IOERR)
      const offset = Number(request.sector) * 512
      if (request.type === T.IN) return { status: OK, data: disk.slice(offset, offset + length) }
      disk.set(request.out, offset)
      return refuse(OK)
    }
    case T.FLUSH:
      return refuse(OK)
    case T.GET_ID:
      return { status: OK, data: Uint8Array.from({ length: Math.min(request.in, 20) }, (_, at) => SERIAL.charCodeAt(at) || 0) }
    case T.DISCARD:
      return refuse(
        negotiated.discard ? judgeRanges(request.out, disk, { flags: 0, fill: 0xdd, max: negotiated.maxSegments.discard }) : UNSUPP,
      )
    case T.WRITE_ZEROES:
      return refuse(
        negotiated.writeZeroes ? judgeRanges(request.out, disk, { flags: 1, fill: 0, max: negotiated.maxSegments.writeZeroes }) : UNSUPP,
      )
    default:
      return refuse(UNSUPP)
  }
}

function judgeRanges(
  list: Uint8Array,
  disk: Uint8Array,
  kind: { readonly flags: number; readonly fill: number; readonly max: number },
): number {
  if (list.length % 16 !== 0) return IOERR
  const view = new DataView(list.buffer, list.byteOffset, list.length)
  const segments = Array.from({ length: list.length / 16 }, (_, at) => ({
    sector: view.getBigUint64(16 * at, true),
    sectors: BigInt(view.getUint32(16 * at + 8, true)),
    flags: view.getUint32(16 * at + 12, true),
  }))
  if (segments.some(({ flags }) => (flags | kind.flags) !== kind.flags)) return UNSUPP
  if (segments.length > kind.max) return IOERR
  if (segments.some(({ sector, sectors }) => (sector + sectors) * 512n > BigInt(disk.length))) return IOERR
  for (const { sector, sectors } of segments) disk.fill(kind.fill, Number(sector) * 512, Number(sector + sectors) * 512)
  return OK
}

/** The readable bytes of a request: header and data. */
export function readableBytes(request: FuzzRequest): Uint8Array {
  const head = header({ type: request.type, sector: request.sector, reserved: request.reserved } satisfies Request)
  return Uint8Array.from([...head, ...request.out])
}
