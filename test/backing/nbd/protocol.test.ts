/** The words of NBD, against bytes typed from the protocol's document. */
import { describe, expect, it } from "vitest"
import { backingCodeOf, nbdErrorOf } from "../../../src/backing/nbd/errors.ts"
import * as options from "../../../src/backing/nbd/option-messages.ts"
import { isErrorChunk, isErrorReply, NbdProtocolError } from "../../../src/backing/nbd/protocol.ts"
import * as transmission from "../../../src/backing/nbd/transmission-messages.ts"
import { viewOf } from "../../../src/backing/bytes/fields.ts"

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")
const bytesOf = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replace(/[\s|]/g, ""), "hex"))

describe("the handshake", () => {
  it("greets with both magics and the flags", () => {
    expect(hex(options.encodeGreeting(3))).toBe("4e42444d41474943" + "49484156454f5054" + "0003")
    expect(options.decodeGreeting(options.encodeGreeting(1))).toBe(1)
    expect(() => options.decodeGreeting(bytesOf("4e42444d41474943 00420281 86125300 0000"))).toThrow(/oldstyle/)
    expect(() => options.decodeGreeting(new Uint8Array(18))).toThrow(/no NBD server/)
  })

  it("encodes and decodes options and their replies", () => {
    expect(hex(options.encodeOption(7, bytesOf("0102")))).toBe("49484156454f5054" + "00000007" + "00000002" + "0102")
    expect(options.decodeOptionHeader(options.encodeOption(3))).toEqual({ option: 3, length: 0 })
    expect(hex(options.encodeOptionReply(7, 0x8000_0006, bytesOf("78")))).toBe(
      "0003e889045565a9" + "00000007" + "80000006" + "00000001" + "78",
    )
    const header = options.decodeOptionReplyHeader(options.encodeOptionReply(7, 1))
    expect(header).toEqual({ option: 7, type: 1, length: 0 })
    expect(() => options.decodeOptionHeader(new Uint8Array(16))).toThrow(NbdProtocolError)
    expect(() => options.decodeOptionReplyHeader(new Uint8Array(20))).toThrow(NbdProtocolError)
    expect([isErrorReply(1), isErrorReply(0x8000_0001), isErrorChunk(5), isErrorChunk(0x8001)]).toEqual([false, true, false, true])
  })

  it("asks for an export and for meta contexts, names in UTF-8", () => {
    const go = { name: "dß", requests: [3] }
    expect(hex(options.encodeInfoRequest(go))).toBe("00000003" + "64c39f" + "0001" + "0003")
    expect(options.decodeInfoRequest(options.encodeInfoRequest(go))).toEqual(go)
    const meta = { name: "", queries: ["base:allocation", "x:"] }
    expect(hex(options.encodeMetaContextRequest({ name: "a", queries: ["x:"] }))).toBe("00000001" + "61" + "00000001" + "00000002" + "783a")
    expect(options.decodeMetaContextRequest(options.encodeMetaContextRequest(meta))).toEqual(meta)
    expect(
      options.decodeMetaContext(options.encodeMetaContext({ id: 7, name: "base:allocation" })),
    ).toEqual({ id: 7, name: "base:allocation" })
  })

  it.each([
    ["a name longer than the option", () => options.decodeInfoRequest(bytesOf("00000009 61 0000"))],
    ["a name of 4 GiB", () => options.decodeInfoRequest(bytesOf("ffffffff 61 0000"))],
    ["more requests than bytes", () => options.decodeInfoRequest(bytesOf("00000000 0002 0003"))],
    ["bytes behind the requests", () => options.decodeInfoRequest(bytesOf("00000000 0000 00"))],
    ["4 billion queries", () => options.decodeMetaContextRequest(bytesOf("00000000 ffffffff 00000000"))],
    ["a query beyond the end", () => options.decodeMetaContextRequest(bytesOf("00000000 00000001 00000005 61"))],
    ["bytes behind the queries", () => options.decodeMetaContextRequest(bytesOf("00000000 00000000 00"))],
    ["a context without an id", () => options.decodeMetaContext(bytesOf("0000"))],
    ["information without a type", () => options.decodeInfo(bytesOf("00"))],
    ["an export that lacks its flags", () => options.decodeInfo(bytesOf("0000 0000000000000200"))],
    ["an export of 2^53 bytes", () => options.decodeInfo(bytesOf("0000 0020000000000000 0001"))],
    ["a minimum block of 0", () => options.decodeInfo(bytesOf("0003 00000000 00001000 02000000"))],
    ["a minimum block of 3", () => options.decodeInfo(bytesOf("0003 00000003 00001000 02000000"))],
    ["a minimum block of 128 KiB", () => options.decodeInfo(bytesOf("0003 00020000 00020000 02000000"))],
    ["a preferred block below the minimum", () => options.decodeInfo(bytesOf("0003 00001000 00000800 02000000"))],
    ["a maximum payload below the preferred block", () => options.decodeInfo(bytesOf("0003 00000001 00001000 00000800"))],
  ])("refuses %s", (_, decode) => expect(decode).toThrow(NbdProtocolError))

  it("describes an export", () => {
    expect(hex(options.encodeInfoExport({ size: 2 ** 40 + 1, flags: 0x8d }))).toBe("0000" + "0000010000000001" + "008d")
    expect(options.decodeInfo(options.encodeInfoExport({ size: 512, flags: 3 }))).toEqual({ type: 0, export: { size: 512, flags: 3 } })
    const blockSizes = { minimum: 1, preferred: 4096, maximum: 0xffff_ffff }
    expect(hex(options.encodeInfoBlockSize(blockSizes))).toBe("0003" + "00000001" + "00001000" + "ffffffff")
    expect(options.decodeInfo(options.encodeInfoBlockSize(blockSizes))).toEqual({ type: 3, blockSizes })
    expect(options.decodeInfo(options.encodeInfoText(2, "a disk"))).toEqual({ type: 2, text: "a disk" })
    expect(options.decodeInfo(bytesOf("0099 01"))).toEqual({ type: 0x99 })
    expect(options.encodeExportName({ size: 1, flags: 1 }, { zeroes: true })).toHaveLength(134)
    const short = options.encodeExportName({ size: 1, flags: 1 }, { zeroes: false })
    expect(options.decodeExportName(short)).toEqual({ size: 1, flags: 1 })
    expect(hex(options.encodeServer("ab", "c"))).toBe("00000002" + "6162" + "63")
  })
})

describe("the transmission", () => {
  it("encodes and decodes requests", () => {
    const request = { type: 1, flags: 1, cookieHigh: 0xfeed_f00d, cookieLow: 5, offset: 2 ** 40 + 512, length: 0xffff_fe00 }
    const bytes = new Uint8Array(30)
    transmission.writeRequest(viewOf(bytes), 1, request)
    expect(hex(bytes.subarray(1, 29))).toBe("25609513" + "0001" + "0001" + "feedf00d00000005" + "0000010000000200" + "fffffe00")
    expect(transmission.readRequest(viewOf(bytes), 1)).toEqual(request)
    expect(() => transmission.readRequest(viewOf(bytes), 0)).toThrow(NbdProtocolError)
  })

  it("encodes and decodes simple replies and chunks", () => {
    const bytes = new Uint8Array(20)
    transmission.writeSimpleReply(viewOf(bytes), 0, { error: 5, cookieHigh: 1, cookieLow: 2 })
    expect(hex(bytes.subarray(0, 16))).toBe("67446698" + "00000005" + "0000000100000002")
    transmission.writeChunkHeader(viewOf(bytes), 0, { flags: 1, type: 0x8001, cookieHigh: 1, cookieLow: 2, length: 6 })
    expect(hex(bytes)).toBe("668e33ef" + "0001" + "8001" + "0000000100000002" + "00000006")
  })

  it("encodes and decodes errors with a message and an offset", () => {
    expect(hex(transmission.encodeErrorChunk({ error: 28, message: "no" }))).toBe("0000001c" + "0002" + "6e6f")
    const error = { error: 5, message: "bad sector", offset: 4096 }
    expect(transmission.decodeErrorChunk(0x8002, transmission.encodeErrorChunk(error))).toEqual(error)
    expect(transmission.decodeErrorChunk(0x8077, bytesOf("00000005 0000 ff"))).toEqual({ error: 5, message: "" })
    expect(transmission.encodeErrorChunk({ error: 5, message: "x".repeat(9000) })).toHaveLength(6 + 4096)
  })

  it("encodes and decodes block status", () => {
    const status = { contextId: 9, extents: [{ length: 65_536, flags: 0 }, { length: 0xffff_0000, flags: 3 }] }
    expect(hex(transmission.encodeBlockStatus(status))).toBe("00000009" + "00010000" + "00000000" + "ffff0000" + "00000003")
    expect(transmission.decodeBlockStatus(transmission.encodeBlockStatus(status))).toEqual(status)
  })

  it.each([
    ["the error 0", () => transmission.decodeErrorChunk(0x8001, bytesOf("00000000 0000"))],
    ["a message longer than the chunk", () => transmission.decodeErrorChunk(0x8001, bytesOf("00000005 0004 6161"))],
    ["an error without its offset", () => transmission.decodeErrorChunk(0x8002, bytesOf("00000005 0000 00000000"))],
    ["a status without an extent", () => transmission.decodeBlockStatus(bytesOf("00000001"))],
    ["half an extent", () => transmission.decodeBlockStatus(bytesOf("00000001 00000200 00000000 00000200"))],
    ["an extent of no bytes", () => transmission.decodeBlockStatus(bytesOf("00000001 00000000 00000000"))],
  ])("refuses %s", (_, decode) => expect(decode).toThrow(NbdProtocolError))

  it("maps each error code to a number of NBD and back", () => {
    expect(nbdErrorOf("no-space")).toBe(28)
    expect(backingCodeOf(28).code).toBe("no-space")
    expect(backingCodeOf(1).code).toBe("permission")
    expect(backingCodeOf(4711).code).toBe("invalid-argument")
  })
})
