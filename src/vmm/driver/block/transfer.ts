/**
 * Long reads and writes: a window of large requests (1 MiB by default) that stays full while their data is copied or consumed in order.
 */
import { SECTOR_SIZE } from "./spec.ts"

/** A request slot: the memory of one request, used for many requests in turn. */
export interface TransferSlot {
  /** Its data, `length` bytes of it, in guest RAM as it is now. */
  data(length: number): Uint8Array
  /** Sends the request. The promise settles when the device has returned it. */
  send(sector: number, length: number): Promise<void>
  release(): void
}

export interface Transfer {
  /** First sector. */
  readonly sector: number
  /** Bytes in all, a multiple of 512. */
  readonly length: number
  /** Bytes of one request. */
  readonly chunk: number
  /** Before a request: puts the bytes at `offset` of the transfer into guest RAM. */
  readonly fill?: (data: Uint8Array, offset: number) => void
  /** After a request, in order: takes the bytes at `offset` of the transfer out of guest RAM. */
  readonly drain?: (data: Uint8Array, offset: number) => void | Promise<void>
}

export interface TransferPort {
  /** At least one slot, and up to `count` while there is memory. */
  openSlots(count: number): readonly TransferSlot[] | Promise<readonly TransferSlot[]>
  /** Runs `submit`, then sends what it has submitted with one kick. */
  batch(submit: () => void): void
}

interface Running {
  readonly slot: TransferSlot
  reply: Promise<void>
  isDone: boolean
}

/** Runs a transfer. When requests fail, it waits until none is in flight, then rejects with the error of the first one in order. */
export async function runTransfer(port: TransferPort, transfer: Transfer): Promise<void> {
  const count = Math.ceil(transfer.length / transfer.chunk)
  if (count === 0) return
  const opened = port.openSlots(count)
  // Awaited only when it is a promise: while there is memory, the first requests are sent before the caller goes on.
  const slots = opened instanceof Promise ? await opened : opened
  const running: Running[] = slots.map((slot) => ({ slot, reply: Promise.resolve(), isDone: false }))
  const lengthOf = (chunk: number): number => Math.min(transfer.chunk, transfer.length - chunk * transfer.chunk)
  let sent = 0
  let taken = 0
  const sendMore = (): void => {
    for (; sent < count && sent - taken < running.length; sent++) {
      const at = running[sent % running.length]
      if (at !== undefined) send(at, transfer, sent * transfer.chunk, lengthOf(sent))
    }
  }
  try {
    while (taken < count) {
      port.batch(sendMore)
      let at = running[taken % running.length]
      await at?.reply
      // Take all that have come back already, so that the next batch is as large as possible.
      for (; at?.isDone === true && taken < sent; at = running[taken % running.length]) {
        const pending = transfer.drain?.(at.slot.data(lengthOf(taken)), taken * transfer.chunk)
        if (pending !== undefined) await pending
        at.isDone = false
        taken++
      }
    }
  } finally {
    await Promise.allSettled(running.map(({ reply }) => reply))
    for (const slot of slots) slot.release()
  }
}

function send(at: Running, transfer: Transfer, offset: number, length: number): void {
  transfer.fill?.(at.slot.data(length), offset)
  at.reply = at.slot.send(transfer.sector + offset / SECTOR_SIZE, length).then(() => {
    at.isDone = true
  })
  // Its failure is handled in its turn; until then Node must not report it as unhandled.
  at.reply.catch(() => undefined)
}
