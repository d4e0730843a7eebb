/**
 * Constants of the NBD protocol, one object for each table, in the spelling of its document: [NBD] is doc/proto.md of
 * https://github.com/NetworkBlockDevice/nbd. All integers on the wire are big-endian.
 */

/** A 64-bit magic number as two 32-bit halves. */
export type Magic = readonly [high: number, low: number]

/** [NBD] "Newstyle negotiation": the first eight bytes from the server, "NBDMAGIC". */
export const NBDMAGIC: Magic = [0x4e42_444d, 0x4147_4943]
/** The next eight bytes from the server, and the first of each option from the client, "IHAVEOPT". */
export const IHAVEOPT: Magic = [0x4948_4156, 0x454f_5054]
/** The first eight bytes of each reply to an option. */
export const NBD_REP_MAGIC: Magic = [0x0003_e889, 0x0455_65a9]

/** [NBD] "Transmission": the first four bytes of each message. */
export const NBD_REQUEST_MAGIC = 0x2560_9513
export const NBD_SIMPLE_REPLY_MAGIC = 0x6744_6698
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e_33ef

/** The port that IANA has given to NBD. */
export const NBD_DEFAULT_PORT = 10_809

/** [NBD] "Handshake flags": masks, 16 bits from the server. */
export const NBD_FLAG = { FIXED_NEWSTYLE: 1 << 0, NO_ZEROES: 1 << 1 } as const

/** [NBD] "Client flags": masks, 32 bits from the client. */
export const NBD_FLAG_C = { FIXED_NEWSTYLE: 1 << 0, NO_ZEROES: 1 << 1 } as const

/** [NBD] "Transmission flags": masks, 16 bits that come with the export's size. */
export const NBD_FLAG_T = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
} as const

/** [NBD] "Option types". */
export const NBD_OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const

/** [NBD] "Option reply types"; those with bit 31 set are errors. */
export const NBD_REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x8000_0001,
  ERR_POLICY: 0x8000_0002,
  ERR_INVALID: 0x8000_0003,
  ERR_PLATFORM: 0x8000_0004,
  ERR_TLS_REQD: 0x8000_0005,
  ERR_UNKNOWN: 0x8000_0006,
  ERR_SHUTDOWN: 0x8000_0007,
  ERR_BLOCK_SIZE_REQD: 0x8000_0008,
  ERR_TOO_BIG: 0x8000_0009,
} as const

/** Whether a reply to an option is an error: bit 31 of its type is set. */
export function isErrorReply(type: number): boolean {
  return type >= 0x8000_0000
}

/** [NBD] "NBD_REP_INFO": information types. */
export const NBD_INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const

/** [NBD] "Request types". */
export const NBD_CMD = { READ: 0, WRITE: 1, DISC: 2, FLUSH: 3, TRIM: 4, CACHE: 5, WRITE_ZEROES: 6, BLOCK_STATUS: 7 } as const

/** [NBD] "Command flags": masks, 16 bits of a request. */
export const NBD_CMD_FLAG = { FUA: 1 << 0, NO_HOLE: 1 << 1, DF: 1 << 2, REQ_ONE: 1 << 3, FAST_ZERO: 1 << 4 } as const

/** [NBD] "Structured reply flags": masks, 16 bits of a chunk. */
export const NBD_REPLY_FLAG = { DONE: 1 << 0 } as const

/** [NBD] "Structured reply types"; those with bit 15 set are errors. */
export const NBD_REPLY_TYPE = { NONE: 0, OFFSET_DATA: 1, OFFSET_HOLE: 2, BLOCK_STATUS: 5, ERROR: 0x8001, ERROR_OFFSET: 0x8002 } as const

/** Whether a chunk is an error chunk: bit 15 of its type is set. */
export function isErrorChunk(type: number): boolean {
  return type >= 0x8000
}

/** [NBD] "Error values". */
export const NBD_ERROR = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const

/** [NBD] "base:allocation metadata context": the name, and masks of its status words. */
export const BASE_ALLOCATION = "base:allocation"
export const NBD_STATE = { HOLE: 1 << 0, ZERO: 1 << 1 } as const

/** Bytes of each fixed part. */
export const NBD_SIZE = {
  /** Two magics and the handshake flags. */
  greeting: 18,
  clientFlags: 4,
  /** Magic, option, length. */
  optionHeader: 16,
  /** Magic, option, type, length. */
  optionReplyHeader: 20,
  /** Size and flags; without NO_ZEROES, the zeroes follow. */
  exportName: 10,
  exportNameZeroes: 124,
  infoExport: 12,
  infoBlockSize: 14,
  request: 28,
  simpleReply: 16,
  chunkHeader: 20,
  /** Of the payload of an OFFSET_DATA chunk, before the data. */
  offsetData: 8,
  offsetHole: 12,
  /** Of the payload of a BLOCK_STATUS chunk: the context id, and each descriptor. */
  contextId: 4,
  descriptor: 8,
} as const

/** Limits of [NBD] that both sides keep. */
export const NBD_LIMIT = {
  /** Bytes of a string: names, queries, messages. */
  string: 4096,
  /** Maximum of bytes of one READ or WRITE, unless negotiated otherwise. */
  payload: 32 * 1024 * 1024,
  /** The largest minimum block size that may be stated. */
  minimumBlock: 65_536,
  /** Descriptors in one BLOCK_STATUS chunk. */
  descriptors: 2 ** 20,
} as const

/**
 * The other side broke the protocol, as `message` says. Whoever catches this ends the connection, or answers an option with
 * NBD_REP_ERR_INVALID.
 */
export class NbdProtocolError extends Error {
  override readonly name = "NbdProtocolError"
}
