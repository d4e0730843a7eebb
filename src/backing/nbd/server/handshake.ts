/** Handshake: the fixed newstyle negotiation, on the server's side, until the client has chosen an export or has gone. */
import {
  decodeInfoRequest, decodeMetaContextRequest, decodeOptionHeader, encodeExportName, encodeGreeting, encodeInfoBlockSize, encodeInfoExport,
  encodeInfoText, encodeMetaContext, encodeOptionReply, encodeServer,
} from "../option-messages.ts"
import { BASE_ALLOCATION, NBD_FLAG, NBD_FLAG_C, NBD_INFO, NBD_LIMIT, NBD_OPT, NBD_REP, NBD_SIZE, NbdProtocolError } from "../protocol.ts"
import { decodeText, encodeText, viewOf } from "../../bytes/fields.ts"
import type { ByteQueue } from "./byte-queue.ts"
import type { Export, ExportTable } from "./export.ts"
import { ALLOCATION_CONTEXT_ID } from "./status-command.ts"
import type { Agreement, Appetite, Phase, Wire } from "./wire.ts"

/** Maximum of bytes of an option's data. */
const MOST_DATA = 1 << 16
/** Maximum of options of one client: a fixed number, and some for each export. */
const MOST_OPTIONS = 64
const MOST_OPTIONS_EACH = 8
/** Bytes of unread answers beyond which no more is read from a client. */
const MOST_UNSENT = 1 << 16
/** All offsets and lengths work; whole blocks of a file system are preferred. */
const BLOCK_SIZES = { minimum: 1, preferred: 4096, maximum: NBD_LIMIT.payload } as const

export interface HandshakeOptions {
  readonly wire: Wire
  readonly exports: ExportTable
  /** "off": there is no certificate. "required": every option but STARTTLS and ABORT is refused. "done": TLS is in use. */
  readonly tls: "off" | "required" | "done"
  /** The client has sent STARTTLS: `acknowledge` answers it. Nothing more is read until TLS begins. */
  onTls(acknowledge: () => void): void
  /** The client has chosen. */
  onAgreed(agreement: Agreement): void
}

export class Handshake implements Phase {
  readonly #options: HandshakeOptions
  readonly #wire: Wire
  #clientFlags: number | undefined
  #header: { readonly option: number; readonly length: number } | undefined
  #count = 0
  /** Whether further bytes are not for the handshake. */
  #isOver = false
  #isStructured = false
  /** The export for which the client has chosen base:allocation. */
  #statusOf: Export | undefined

  constructor(options: HandshakeOptions) {
    this.#options = options
    this.#wire = options.wire
    // With TLS the handshake continues in the middle: greeting and client flags have been exchanged before it.
    if (options.tls === "done") this.#clientFlags = NBD_FLAG_C.FIXED_NEWSTYLE
    else this.#wire.send(encodeGreeting(NBD_FLAG.FIXED_NEWSTYLE | NBD_FLAG.NO_ZEROES))
  }

  take(inbox: ByteQueue): Appetite {
    while (!this.#isOver) {
      if (this.#wire.unsent > MOST_UNSENT) return "blocked"
      if (this.#clientFlags === undefined) {
        if (inbox.length < NBD_SIZE.clientFlags) return "more"
        this.#clientFlags = checkedFlags(viewOf(inbox.take(NBD_SIZE.clientFlags)).getUint32(0))
      } else if (this.#header === undefined) {
        if (inbox.length < NBD_SIZE.optionHeader) return "more"
        this.#header = this.#checkedHeader(decodeOptionHeader(inbox.take(NBD_SIZE.optionHeader)))
      } else {
        if (inbox.length < this.#header.length) return "more"
        const { option, length } = this.#header
        this.#header = undefined
        this.#answer(option, inbox.take(length))
      }
    }
    return "blocked"
  }

  drained(): void {
    this.#wire.proceed()
  }

  finish(): void {
    this.#isOver = true
    this.#wire.end()
  }

  closed(): void {
    this.#isOver = true
  }

  #checkedHeader(header: { readonly option: number; readonly length: number }): { readonly option: number; readonly length: number } {
    const isFixed = ((this.#clientFlags ?? 0) & NBD_FLAG_C.FIXED_NEWSTYLE) !== 0
    if (!isFixed && header.option !== NBD_OPT.EXPORT_NAME) throw new NbdProtocolError(`option ${header.option} without fixed newstyle`)
    if (header.length > MOST_DATA) {
      throw new NbdProtocolError(`option ${header.option} with ${header.length} bytes; ${MOST_DATA} are allowed`)
    }
    const most = MOST_OPTIONS + MOST_OPTIONS_EACH * this.#options.exports.all.length
    if (++this.#count > most) throw new NbdProtocolError(`more than ${most} options`)
    return header
  }

  #answer(option: number, data: Uint8Array): void {
    if (this.#options.tls === "required" && option !== NBD_OPT.STARTTLS && option !== NBD_OPT.ABORT) {
      if (option === NBD_OPT.EXPORT_NAME) throw new NbdProtocolError("an export was chosen without TLS")
      return this.#reply(option, NBD_REP.ERR_TLS_REQD, "this server speaks TLS only")
    }
    try {
      this.#dispatch(option, data)
    } catch (error) {
      if (!(error instanceof NbdProtocolError) || option === NBD_OPT.EXPORT_NAME) throw error
      this.#reply(option, NBD_REP.ERR_INVALID, error.message)
    }
  }

  #dispatch(option: number, data: Uint8Array): void {
    switch (option) {
      case NBD_OPT.EXPORT_NAME:
        return this.#exportName(data)
      case NBD_OPT.ABORT:
        this.#isOver = true
        this.#reply(option, NBD_REP.ACK)
        return this.#wire.end()
      case NBD_OPT.LIST:
        checkEmpty(data)
        for (const { name, description } of this.#options.exports.all) this.#send(option, NBD_REP.SERVER, encodeServer(name, description))
        return this.#reply(option, NBD_REP.ACK)
      case NBD_OPT.STARTTLS:
        checkEmpty(data)
        return this.#startTls()
      case NBD_OPT.INFO:
      case NBD_OPT.GO:
        return this.#info(option, data)
      case NBD_OPT.STRUCTURED_REPLY:
        checkEmpty(data)
        this.#isStructured = true
        return this.#reply(option, NBD_REP.ACK)
      case NBD_OPT.LIST_META_CONTEXT:
      case NBD_OPT.SET_META_CONTEXT:
        return this.#metaContext(option, data)
      default:
        return this.#reply(option, NBD_REP.ERR_UNSUP, "this server does not know the option")
    }
  }

  #exportName(data: Uint8Array): void {
    const name = decodeText(data.subarray(0, NBD_LIMIT.string))
    const target = data.length > NBD_LIMIT.string ? undefined : this.#options.exports.find(name)
    if (target === undefined) throw new NbdProtocolError(`there is no export "${name.slice(0, 80)}"`)
    const agreement = this.#agreementOn(target)
    const zeroes = ((this.#clientFlags ?? 0) & NBD_FLAG_C.NO_ZEROES) === 0
    this.#wire.send(encodeExportName({ size: agreement.size, flags: target.flags(this.#isStructured) }, { zeroes }))
    this.#agree(agreement)
  }

  #startTls(): void {
    const { tls } = this.#options
    if (tls === "done") return this.#reply(NBD_OPT.STARTTLS, NBD_REP.ERR_INVALID, "TLS is in use already")
    if (tls === "off") return this.#reply(NBD_OPT.STARTTLS, NBD_REP.ERR_POLICY, "this server has no certificate")
    this.#isOver = true
    this.#options.onTls(() => this.#reply(NBD_OPT.STARTTLS, NBD_REP.ACK))
  }

  #info(option: number, data: Uint8Array): void {
    const { name, requests } = decodeInfoRequest(data)
    const target = this.#options.exports.find(name)
    if (target === undefined) return this.#reply(option, NBD_REP.ERR_UNKNOWN, "there is no such export")
    const agreement = this.#agreementOn(target)
    const { size } = agreement
    this.#send(option, NBD_REP.INFO, encodeInfoExport({ size, flags: target.flags(this.#isStructured) }))
    if (requests.includes(NBD_INFO.BLOCK_SIZE)) this.#send(option, NBD_REP.INFO, encodeInfoBlockSize(BLOCK_SIZES))
    if (requests.includes(NBD_INFO.NAME)) this.#send(option, NBD_REP.INFO, encodeInfoText(NBD_INFO.NAME, target.name))
    if (requests.includes(NBD_INFO.DESCRIPTION) && target.description !== "") {
      this.#send(option, NBD_REP.INFO, encodeInfoText(NBD_INFO.DESCRIPTION, target.description))
    }
    this.#reply(option, NBD_REP.ACK)
    if (option === NBD_OPT.GO) this.#agree(agreement)
  }

  #metaContext(option: number, data: Uint8Array): void {
    const isSet = option === NBD_OPT.SET_META_CONTEXT
    // Drops earlier settings, even if this fails.
    if (isSet) this.#statusOf = undefined
    if (!this.#isStructured) throw new NbdProtocolError("meta contexts need structured replies")
    const { name, queries } = decodeMetaContextRequest(data)
    const target = this.#options.exports.find(name)
    if (target === undefined) return this.#reply(option, NBD_REP.ERR_UNKNOWN, "there is no such export")
    const isMeant = queries.includes(BASE_ALLOCATION) || (!isSet && (queries.length === 0 || queries.includes("base:")))
    if (isMeant) {
      const id = isSet ? ALLOCATION_CONTEXT_ID : 0
      if (isSet) this.#statusOf = target
      this.#send(option, NBD_REP.META_CONTEXT, encodeMetaContext({ id, name: BASE_ALLOCATION }))
    }
    this.#reply(option, NBD_REP.ACK)
  }

  #agreementOn(target: Export): Agreement {
    return { target, size: target.backing.size, structured: this.#isStructured, status: this.#statusOf === target }
  }

  #agree(agreement: Agreement): void {
    this.#isOver = true
    this.#options.onAgreed(agreement)
  }

  #reply(option: number, type: number, text = ""): void {
    this.#send(option, type, encodeText(text))
  }

  #send(option: number, type: number, data: Uint8Array): void {
    this.#wire.send(encodeOptionReply(option, type, data))
  }
}

function checkedFlags(flags: number): number {
  const known = NBD_FLAG_C.FIXED_NEWSTYLE | NBD_FLAG_C.NO_ZEROES
  if ((flags & ~known) !== 0) throw new NbdProtocolError(`client flags ${flags}, some of which are unknown`)
  return flags
}

function checkEmpty(data: Uint8Array): void {
  if (data.length > 0) throw new NbdProtocolError("the option has no data")
}
