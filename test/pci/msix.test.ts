/** MSI-X: table, pending bits, masks. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import {
  composed, MSIX_PBA, MSIX_TABLE, msixFunction, RecordedInterrupts, type TestFunction, testFunction, WIDTHS,
} from "./test-function.ts"

const SEED = seedFromEnvironment(0x0511)

const MESSAGE_CONTROL = 0x42
const ENABLE = 0x8000
const FUNCTION_MASK = 0x4000

/** Writes a table entry as a guest does: address, data, then vector control. */
function program(fn: TestFunction, vector: number, data: number, masked = false): void {
  const entry = MSIX_TABLE + 16 * vector
  fn.barWrite(1, entry, 4, 0xfee0_1000)
  fn.barWrite(1, entry + 4, 4, 0)
  fn.barWrite(1, entry + 8, 4, data)
  fn.barWrite(1, entry + 12, 4, masked ? 1 : 0)
}

function setup(vectors = 4): { fn: TestFunction; interrupts: RecordedInterrupts; data: () => number[] } {
  const interrupts = new RecordedInterrupts()
  const fn = msixFunction(vectors, interrupts)
  for (let vector = 0; vector < vectors; vector++) program(fn, vector, 0x40 + vector)
  return { fn, interrupts, data: () => interrupts.messages.splice(0).map((message) => message.data) }
}

describe("the MSI-X capability", () => {
  it("PCI-31 PCI-32 has id 0x11, the table size minus one, and the places of table and pending bits", () => {
    const fn = msixFunction(5)
    expect(fn.configRead(0x34, 1)).toBe(0x40)
    expect(fn.configRead(0x40, 1)).toBe(0x11)
    expect(fn.configRead(MESSAGE_CONTROL, 2)).toBe(4)
    expect(fn.configRead(0x44, 4)).toBe(MSIX_TABLE + 1)
    expect(fn.configRead(0x48, 4)).toBe(MSIX_PBA + 1)
  })

  it("PCI-11 PCI-32 only enable and function mask can be written", () => {
    const fn = msixFunction(5)
    for (const offset of [0x40, 0x44, 0x48]) fn.configWrite(offset, 4, 0xffff_ffff)
    expect(fn.configRead(MESSAGE_CONTROL, 2)).toBe(ENABLE | FUNCTION_MASK | 4)
    expect([fn.configRead(0x40, 2), fn.configRead(0x44, 4), fn.configRead(0x48, 4)]).toEqual([0x0011, MSIX_TABLE + 1, MSIX_PBA + 1])
    fn.configWrite(0x43, 1, 0x00)
    expect(fn.configRead(MESSAGE_CONTROL, 2)).toBe(4)
  })

  it("PCI-31 there are 1 to 2048 vectors", () => {
    const build = (vectors: number): TestFunction =>
      testFunction({ bars: [{ index: 0, kind: "memory32", size: 65536 }], msix: { bar: 0, vectors, tableOffset: 0, pbaOffset: 32768 } })
    expect(build(2048).configRead(MESSAGE_CONTROL, 2)).toBe(0x7ff)
    expect(build(1).configRead(MESSAGE_CONTROL, 2)).toBe(0)
    for (const vectors of [0, 2049, -1, 1.5, NaN]) expect(() => build(vectors)).toThrow("1 to 2048")
  })

  it("structures that are misaligned, do not fit, overlap or lie in I/O space are refused", () => {
    const build = (bar: number, tableOffset: number, pbaOffset: number) => () => testFunction({
      msix: { bar, vectors: 4, tableOffset, pbaOffset },
    })
    expect(build(0, 0, 64)).toThrow("BAR 0 is not a memory BAR")
    expect(build(2, 0, 64)).toThrow("BAR 2 is not a memory BAR")
    expect(build(1, 4, 64)).toThrow("table at 4: a multiple of 8")
    expect(build(1, 0, -8)).toThrow("pending bits at -8")
    expect(build(1, 4096 - 56, 0)).toThrow("do not fit in BAR 1")
    expect(build(1, 64, 64 + 56)).toThrow("overlap")
    expect(build(1, 0, 0)).toThrow("overlap")
    expect(build(1, 0, 64)).not.toThrow()
    expect(build(1, 8, 0)).not.toThrow()
  })
})

describe("MSI-X messages", () => {
  it("PCI-32 an enabled, unmasked vector stores its data at its address, and INTx stays low", () => {
    const { fn, interrupts } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    fn.msix?.trigger(2)
    expect(interrupts.messages).toEqual([{ address: 0xfee0_1000, data: 0x42 }])
    expect(interrupts.levels).toEqual([])
  })

  it("PCI-32 after power-on every vector is masked, and the rest of the table is zero", () => {
    const fn = msixFunction(3)
    for (let vector = 0; vector < 3; vector++) {
      expect([0, 4, 8, 12].map((offset) => fn.barRead(1, MSIX_TABLE + 16 * vector + offset, 4))).toEqual([0, 0, 0, 1])
    }
  })

  it("PCI-32 an event for a masked vector sets its pending bit; unmasking sends one message and clears the bit", () => {
    const { fn, data } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    fn.barWrite(1, MSIX_TABLE + 16 + 12, 4, 1)
    fn.msix?.trigger(1)
    fn.msix?.trigger(1)
    fn.msix?.trigger(1)
    expect(data()).toEqual([])
    expect(fn.barRead(1, MSIX_PBA, 4)).toBe(0b10)
    fn.barWrite(1, MSIX_TABLE + 16 + 12, 4, 0)
    expect(data()).toEqual([0x41])
    expect(fn.barRead(1, MSIX_PBA, 4)).toBe(0)
    fn.barWrite(1, MSIX_TABLE + 16 + 12, 4, 0)
    expect(data()).toEqual([])
  })

  it("PCI-32 a byte access unmasks a vector too, and one to another byte of Vector Control does not", () => {
    const { fn, data } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    fn.barWrite(1, MSIX_TABLE + 12, 1, 1)
    fn.msix?.trigger(0)
    fn.barWrite(1, MSIX_TABLE + 13, 1, 0)
    fn.barWrite(1, MSIX_TABLE + 14, 2, 0)
    expect(data()).toEqual([])
    fn.barWrite(1, MSIX_TABLE + 12, 1, 0xfe)
    expect(data()).toEqual([0x40])
  })

  it("PCI-32 unmasking sends the message that is in the table at that moment", () => {
    const { fn, interrupts } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    fn.barWrite(1, MSIX_TABLE + 12, 4, 1)
    fn.msix?.trigger(0)
    fn.barWrite(1, MSIX_TABLE, 4, 0xfee0_2000)
    fn.barWrite(1, MSIX_TABLE + 8, 4, 0xffff_ffff)
    fn.barWrite(1, MSIX_TABLE + 12, 4, 0)
    expect(interrupts.messages).toEqual([{ address: 0xfee0_2000, data: 0xffff_ffff }])
  })

  it("PCI-32 the function mask holds back every vector, and lifting it sends the pending ones, lowest first", () => {
    const { fn, data } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE | FUNCTION_MASK)
    fn.barWrite(1, MSIX_TABLE + 2 * 16 + 12, 4, 1)
    for (const vector of [3, 2, 0]) fn.msix?.trigger(vector)
    expect(data()).toEqual([])
    expect(fn.barRead(1, MSIX_PBA, 4)).toBe(0b1101)
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    expect(data()).toEqual([0x40, 0x43])
    expect(fn.barRead(1, MSIX_PBA, 4)).toBe(0b0100)
  })

  it("PCI-32 a message that was pending when MSI-X was disabled is sent when it is enabled again", () => {
    const { fn, data } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE | FUNCTION_MASK)
    fn.msix?.trigger(1)
    fn.configWrite(MESSAGE_CONTROL, 2, 0)
    expect(data()).toEqual([])
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    expect(data()).toEqual([0x41])
  })

  it("PCI-30 an event while MSI-X is disabled sends nothing and leaves nothing pending", () => {
    const { fn, data } = setup()
    fn.msix?.trigger(0)
    expect(fn.barRead(1, MSIX_PBA, 4)).toBe(0)
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    expect(data()).toEqual([])
  })

  it("PCI-28 PCI-29 a vector outside the table, also NO_VECTOR, sends nothing", () => {
    const { fn, data } = setup(4)
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    for (const vector of [4, 63, 0x7ff, 0xffff]) {
      fn.msix?.trigger(vector)
      fn.msix?.clearPending(vector)
    }
    expect(data()).toEqual([])
    expect([0, 4].map((offset) => fn.barRead(1, MSIX_PBA + offset, 4))).toEqual([0, 0])
  })

  it("PCI-36 without bus mastering a message, which is a memory write, waits in its pending bit until bus mastering is on", () => {
    const { fn, data } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    fn.configWrite(0x04, 2, 0x0002)
    fn.msix?.trigger(3)
    expect(data()).toEqual([])
    expect(fn.barRead(1, MSIX_PBA, 4)).toBe(0b1000)
    fn.setBusMaster(true)
    expect(data()).toEqual([0x43])
  })

  it("an event that was withdrawn leaves the pending bits and is never sent", () => {
    const { fn, data } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE | FUNCTION_MASK)
    for (const vector of [0, 1, 2]) fn.msix?.trigger(vector)
    fn.msix?.clearPending(1)
    expect(fn.barRead(1, MSIX_PBA, 4)).toBe(0b101)
    fn.msix?.clearPending()
    expect(fn.barRead(1, MSIX_PBA, 4)).toBe(0)
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    expect(data()).toEqual([])
  })

  it("the two low bits of a message address are ignored, and the upper half counts in units of 4 GiB", () => {
    const { fn, interrupts } = setup()
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    fn.barWrite(1, MSIX_TABLE, 4, 0x8765_4323)
    fn.barWrite(1, MSIX_TABLE + 4, 4, 0x0000_0123)
    expect(fn.barRead(1, MSIX_TABLE, 4)).toBe(0x8765_4320)
    fn.msix?.trigger(0)
    expect(interrupts.messages).toEqual([{ address: 0x123_8765_4320, data: 0x40 }])
  })

  it("with 2048 vectors the last one works like the first: entry at 0x7ff0, pending bit 2047", () => {
    const interrupts = new RecordedInterrupts()
    const fn = testFunction({
      interrupts,
      bars: [{ index: 2, kind: "memory64", size: 65536 }],
      msix: { bar: 2, vectors: 2048, tableOffset: 0, pbaOffset: 32768 },
    })
    fn.configWrite(0x04, 2, 0x0006)
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE)
    fn.barWrite(2, 0x7ff0, 4, 0x1000)
    fn.barWrite(2, 0x7ff8, 4, 0xabcd)
    fn.msix?.trigger(2047)
    expect(fn.barRead(2, 32768 + 252, 4)).toBe(0x8000_0000)
    expect(fn.barRead(2, 32768 + 256, 4)).toBe(0)
    fn.barWrite(2, 0x7ffc, 4, 0)
    expect(interrupts.messages).toEqual([{ address: 0x1000, data: 0xabcd }])
  })

  it("random events, masks and enables agree with a model of sets", () => {
    const rng = new Rng(SEED)
    const { fn, data } = setup(8)
    const masked = new Set<number>()
    const pending = new Set<number>()
    let control = 0
    let expected: number[] = []
    const release = (): void => {
      for (const vector of [...pending].sort((a, b) => a - b)) {
        if (control !== ENABLE || masked.has(vector)) continue
        pending.delete(vector)
        expected.push(0x40 + vector)
      }
    }
    for (let step = 0; step < 5000; step++) {
      const vector = rng.below(8)
      if (rng.chance(0.5)) {
        fn.msix?.trigger(vector)
        if ((control & ENABLE) !== 0) pending.add(vector)
      } else if (rng.chance(0.8)) {
        const mask = rng.chance(0.5)
        fn.barWrite(1, MSIX_TABLE + 16 * vector + 12, rng.pick(WIDTHS), mask ? 1 : 0)
        if (mask) masked.add(vector)
        else masked.delete(vector)
      } else {
        control = rng.pick([0, ENABLE, ENABLE, ENABLE | FUNCTION_MASK, FUNCTION_MASK])
        fn.configWrite(MESSAGE_CONTROL, 2, control)
      }
      release()
      const bits = fn.barRead(1, MSIX_PBA, 1)
      const sent = data()
      if (bits !== [...pending].reduce((sum, v) => sum + 2 ** v, 0) || sent.join() !== expected.join()) {
        expect.fail(`seed ${SEED} step ${step}: pending ${bits} for ${[...pending]}, sent ${sent} for ${expected}`)
      }
      expected = []
    }
  })
})

describe("accesses to the MSI-X structures", () => {
  it("PCI-37 reads of 1, 2 and 4 bytes agree at every offset of the BAR, across the edges of table and pending bits too", () => {
    const { fn } = setup(64)
    const rng = new Rng(SEED)
    fn.storage.get(1)?.set(rng.bytes(4096))
    fn.configWrite(MESSAGE_CONTROL, 2, ENABLE | FUNCTION_MASK)
    for (let vector = 0; vector < 64; vector++) {
      program(fn, vector, rng.u32(), rng.chance(0.5))
      if (rng.chance(0.5)) fn.msix?.trigger(vector)
    }
    for (let offset = 0; offset < 4096; offset++) {
      for (const width of WIDTHS) {
        if (offset + width > 4096) continue
        const value = fn.barRead(1, offset, width)
        if (value !== composed(offset, width, (at) => fn.barRead(1, at, 1))) {
          expect.fail(`seed ${SEED}: ${width} bytes at ${offset} read ${value}`)
        }
      }
    }
  })

  it("random writes of every width agree with a model: they change writable bits of the table, no pending bits, or reach the device",
  () => {
    const { fn } = setup(4)
    const rng = new Rng(SEED)
    const tableEnd = MSIX_TABLE + 64
    const mask = (at: number): number => {
      if (at >= MSIX_PBA && at < MSIX_PBA + 8) return 0
      if (at < MSIX_TABLE || at >= tableEnd) return 0xff
      return [0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0, 0][at % 16] ?? 0
    }
    const model = Uint8Array.from({ length: 4096 }, (_, at) => fn.barRead(1, at, 1))
    for (let step = 0; step < 10_000; step++) {
      const around = rng.pick([MSIX_TABLE, tableEnd - 8, MSIX_PBA, MSIX_TABLE + 16])
      const offset = around + rng.between(-6, 14)
      const width = rng.pick(WIDTHS)
      const value = rng.u32()
      fn.barWrite(1, offset, width, value)
      for (let i = 0; i < width; i++) {
        model[offset + i] = ((model[offset + i] ?? 0) & ~mask(offset + i)) | ((value >>> (8 * i)) & mask(offset + i))
      }
    }
    expect(Uint8Array.from({ length: 4096 }, (_, at) => fn.barRead(1, at, 1)), `seed ${SEED}`).toEqual(model)
  })

  it("an access beside the structures reaches the device whole, with its width; one inside them never does", () => {
    const { fn } = setup(4)
    fn.accesses.length = 0
    fn.barRead(1, MSIX_TABLE - 4, 4)
    fn.barWrite(1, MSIX_TABLE + 64, 4, -2)
    fn.barRead(1, MSIX_PBA + 8, 2)
    fn.barRead(1, MSIX_TABLE, 4)
    fn.barWrite(1, MSIX_PBA, 4, 1)
    fn.barRead(1, MSIX_PBA + 4, 4)
    expect(fn.accesses).toEqual([`r1+${MSIX_TABLE - 4}:4`, `w1+${MSIX_TABLE + 64}:4=4294967294`, `r1+${MSIX_PBA + 8}:2`])
  })
})
