/** Checks a request before it is executed: returns its command, or its refusal. */
import { NBD_CMD, NBD_CMD_FLAG, NBD_ERROR, NBD_LIMIT, NbdProtocolError } from "../protocol.ts"
import type { Request } from "../transmission-messages.ts"
import type { BufferPool } from "./buffer-pool.ts"
import type { ByteQueue } from "./byte-queue.ts"
import { type Client, type Command, FlushCommand, RefusedCommand, TrimCommand, WriteCommand, ZeroCommand } from "./command.ts"
import { isFastZero } from "./disk-calls.ts"
import { ReadCommand, readMemory } from "./read-command.ts"
import type { Refusal } from "./replies.ts"
import { StatusCommand } from "./status-command.ts"
import type { Agreement } from "./wire.ts"

/** The negotiated export, and its disk. */
export interface Terms extends Agreement {
  readonly client: Client
  readonly pool: BufferPool
}

/** A checked request. */
export interface Acceptance {
  /** Bytes of memory that the command needs, and that the budget has to grant first. */
  readonly memory: number
  /** Bytes that follow the header. */
  readonly payload: number
  command(payload: ByteQueue): Command
}

const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO } = NBD_CMD_FLAG

/** Valid flags of a type. FUA is valid with all types if it was offered. */
const FLAGS_BY_TYPE: ReadonlyMap<number, number> = new Map([
  [NBD_CMD.READ, DF],
  [NBD_CMD.WRITE, 0],
  [NBD_CMD.FLUSH, 0],
  [NBD_CMD.TRIM, 0],
  [NBD_CMD.WRITE_ZEROES, NO_HOLE | FAST_ZERO],
  [NBD_CMD.BLOCK_STATUS, REQ_ONE],
])

/** @throws NbdProtocolError for a write so large that even reading its payload to refuse it would serve an attacker */
export function judge(request: Request, terms: Terms): Acceptance {
  const payload = request.type === NBD_CMD.WRITE ? request.length : 0
  if (payload > NBD_LIMIT.payload) throw new NbdProtocolError(`a write of ${payload} bytes; the limit is ${NBD_LIMIT.payload}`)
  const refusal = refusalOf(request, terms)
  if (refusal !== undefined) return { memory: 0, payload, command: () => new RefusedCommand(terms.client, request, refusal) }
  return accepted(request, terms, payload)
}

function accepted(request: Request, { client, pool, structured }: Terms, payload: number): Acceptance {
  const { type, flags, length } = request
  const mustFlush = (flags & FUA) !== 0
  switch (type) {
    case NBD_CMD.READ: {
      const isWhole = !structured || (flags & DF) !== 0
      return { memory: readMemory(length, isWhole), payload, command: () => new ReadCommand(client, request, { pool, isWhole }) }
    }
    case NBD_CMD.WRITE:
      return { memory: length, payload, command: (bytes) => new WriteCommand(client, request, { payload: bytes, mustFlush }) }
    case NBD_CMD.FLUSH:
      return { memory: 0, payload, command: () => new FlushCommand(client, request) }
    case NBD_CMD.TRIM:
      return { memory: 0, payload, command: () => new TrimCommand(client, request, { mustFlush }) }
    case NBD_CMD.WRITE_ZEROES: {
      const mayUnmap = (flags & NO_HOLE) === 0
      return { memory: 0, payload, command: () => new ZeroCommand(client, request, { mayUnmap, mustFlush }) }
    }
    default:
      return { memory: 0, payload, command: () => new StatusCommand(client, request) }
  }
}

function refusalOf(request: Request, terms: Terms): Refusal | undefined {
  const { type, flags } = request
  const { EINVAL } = NBD_ERROR
  const known = FLAGS_BY_TYPE.get(type)
  if (known === undefined) return { error: EINVAL, message: `there is no request of type ${type}` }
  const { backing } = terms.target
  const allowed = (backing.flush === undefined ? 0 : FUA) | (terms.structured ? known : known & ~DF)
  if ((flags & ~allowed) !== 0) return { error: EINVAL, message: `the flags ${flags} do not go with this request` }
  return missing(type, terms) ?? outside(request, terms) ?? tooMuch(request, terms)
}

/** The error for a request that was not offered. */
function missing(type: number, { target, status }: Terms): Refusal | undefined {
  const { backing, readOnly } = target
  const { EINVAL, EPERM } = NBD_ERROR
  const changes = type === NBD_CMD.WRITE || type === NBD_CMD.TRIM || type === NBD_CMD.WRITE_ZEROES
  if (changes && readOnly) return { error: EPERM, message: "the export is read-only" }
  const lacks =
    (type === NBD_CMD.FLUSH && backing.flush === undefined) || (type === NBD_CMD.TRIM && backing.discard === undefined) ||
    (type === NBD_CMD.WRITE_ZEROES && backing.writeZeroes === undefined)
  if (lacks) return { error: EINVAL, message: "the export does not offer that" }
  if (type === NBD_CMD.BLOCK_STATUS && !status) return { error: EINVAL, message: "no meta context was set for this export" }
  return undefined
}

function outside({ type, offset, length }: Request, { size }: Terms): Refusal | undefined {
  const { EINVAL, ENOSPC } = NBD_ERROR
  if (type === NBD_CMD.FLUSH) return offset === 0 && length === 0 ? undefined : { error: EINVAL, message: "a flush has no range" }
  if (offset <= size && length <= size - offset) return undefined
  const grows = type === NBD_CMD.WRITE || type === NBD_CMD.WRITE_ZEROES
  return { error: grows ? ENOSPC : EINVAL, message: `the export ends at byte ${size}` }
}

function tooMuch({ type, flags, length }: Request, { target }: Terms): Refusal | undefined {
  const { EINVAL, EOVERFLOW, ENOTSUP } = NBD_ERROR
  if (type === NBD_CMD.READ && length > NBD_LIMIT.payload) {
    const error = (flags & DF) !== 0 ? EOVERFLOW : EINVAL
    return { error, message: `a read of ${length} bytes; the limit is ${NBD_LIMIT.payload}` }
  }
  if (type === NBD_CMD.BLOCK_STATUS && length === 0) return { error: EINVAL, message: "a request for the status of 0 bytes" }
  if (type === NBD_CMD.WRITE_ZEROES && (flags & FAST_ZERO) !== 0 && !isFastZero(target.backing, length, (flags & NO_HOLE) === 0)) {
    return { error: ENOTSUP, message: "writing zeroes is not faster here than writing data" }
  }
  return undefined
}
