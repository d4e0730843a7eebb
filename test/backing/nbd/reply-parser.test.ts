/** Where the client reads answers to: the data of large reads come straight into the caller's buffers, one behind the other. */
import { expect, it } from "vitest"
import { Command } from "../../../src/backing/nbd/client/command.ts"
import { ReplyParser } from "../../../src/backing/nbd/client/connection/reply-parser.ts"
import { NBD_CMD } from "../../../src/backing/nbd/protocol.ts"
import { writeSimpleReply } from "../../../src/backing/nbd/transmission-messages.ts"
import { viewOf } from "../../../src/backing/bytes/fields.ts"
import { Rng } from "../../support/rng.ts"

const LENGTH = 200_000

function header(cookieLow: number): Uint8Array {
  const bytes = new Uint8Array(16)
  writeSimpleReply(viewOf(bytes), 0, { cookieHigh: 0, cookieLow, error: 0 })
  return bytes
}

it("reads large data in place, in whatever buffer its first bytes came, and the header behind it by itself", () => {
  const data = [new Rng(1).bytes(LENGTH), new Rng(2).bytes(LENGTH)] as const
  const commands = [
    ...data.map(() => new Command({ type: NBD_CMD.READ, flags: 0, offset: 0, length: LENGTH, buffer: new Uint8Array(LENGTH) })),
    ...Array.from({ length: 6 }, () => new Command({ type: NBD_CMD.FLUSH, flags: 0, offset: 0, length: 0 })),
  ]
  for (const command of commands) command.prepare()
  const done: number[] = []
  const parser = new ReplyParser({ structured: false, contextId: undefined }, {
    find: (_, low) => commands[low],
    completed: (low) => void done.push(low),
  })
  const stream = Buffer.concat([header(0), data[0], header(1), data[1], ...[2, 3, 4, 5, 6, 7].map(header)])
  // What came into the handshake's buffer.
  const first = new Uint8Array(16 * 1024)
  first.set(stream.subarray(0, first.length))
  parser.take(first, first.length)
  let at = first.length
  const targets: number[] = []
  while (at < stream.length) {
    const target = parser.target()
    const count = Math.min(target.length, stream.length - at)
    target.set(stream.subarray(at, at + count))
    targets.push(target.length)
    parser.take(target, count)
    at += count
  }
  expect(done).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
  for (const [index, bytes] of data.entries()) expect(Buffer.compare(commands[index]?.buffer ?? bytes.subarray(1), bytes)).toBe(0)
  const rest = LENGTH - (16 * 1024 - 16)
  expect(targets).toEqual([rest, 28, LENGTH - 12, 28, 256 * 1024])
})
