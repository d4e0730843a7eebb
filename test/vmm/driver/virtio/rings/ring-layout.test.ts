/** Where the parts of a ring lie. */
import { describe, expect, it } from "vitest"
import { GuestRam } from "../../../../../src/vmm/driver/guest-ram.ts"
import { ModernDriverTransport } from "../../../../../src/vmm/driver/virtio/modern-transport.ts"
import { RamAllocator } from "../../../../../src/vmm/driver/ram-allocator.ts"
import {
  availableRingSize,
  checkQueueSize,
  descriptorTableSize,
  legacyRingLayout,
  legacyRingSize,
  legacyUsedOffset,
  usedRingSize,
} from "../../../../../src/vmm/driver/virtio/rings/ring-layout.ts"
import { RingMemory } from "../../../../../src/vmm/driver/virtio/rings/ring-memory.ts"
import { ramPlatform } from "../../ram-platform.ts"

const SIZES = Array.from({ length: 16 }, (_, power) => 2 ** power)

describe("the layout of the driver's rings", () => {
  it("VQ-01 VQ-02 the three parts have 16 N, 6 + 2 N and 6 + 8 N bytes for every queue size", () => {
    for (const size of SIZES) {
      expect([descriptorTableSize(size), availableRingSize(size), usedRingSize(size)]).toEqual([16 * size, 6 + 2 * size, 6 + 8 * size])
    }
    expect(SIZES.at(-1)).toBe(32768)
  })

  it("VQ-02 other queue sizes are refused", () => {
    for (const size of [0, 3, 6, 255, 65536, -1, 1.5, Number.NaN]) expect(() => checkQueueSize(size)).toThrow(/power of two/)
    for (const size of SIZES) expect(() => checkQueueSize(size)).not.toThrow()
  })

  // Offsets of the used ring and sizes of the whole, computed by hand from the formula in [VIRTIO] 2.7.2 with an alignment of 4096.
  it.each([
    [1, 4096, 8192],
    [2, 4096, 8192],
    [128, 4096, 8192],
    [256, 8192, 12288],
    [512, 12288, 20480],
    [1024, 20480, 32768],
    [32768, 593920, 860160],
  ])("LEG-11 LEG-12 a legacy ring of %i has its used ring at %i and %i bytes in all", (size, usedOffset, total) => {
    expect(legacyUsedOffset(size)).toBe(usedOffset)
    expect(legacyRingSize(size)).toBe(total)
    const layout = legacyRingLayout(size, 0x30_0000)
    expect(layout).toEqual({
      queueSize: size, descriptorTable: 0x30_0000, availableRing: 0x30_0000 + 16 * size, usedRing: 0x30_0000 + usedOffset,
    })
  })

  it("LEG-08 a legacy ring starts on a page", () => {
    expect(() => legacyRingLayout(4, 4096 + 16)).toThrow(/multiple of 4096/)
  })

  it("VQ-01 parts of a legacy ring do not overlap, whatever the size", () => {
    for (const size of SIZES) {
      const { descriptorTable, availableRing, usedRing } = legacyRingLayout(size, 0)
      expect(descriptorTable + 16 * size).toBeLessThanOrEqual(availableRing)
      expect(availableRing + 6 + 2 * size).toBeLessThanOrEqual(usedRing)
      expect(usedRing + 6 + 8 * size).toBeLessThanOrEqual(legacyRingSize(size))
    }
  })

  it("VQ-01 parts of a modern ring are allocated apart, aligned to 16, 2 and 4", () => {
    for (const size of SIZES) {
      const memory = new RamAllocator({ start: 4098, length: 2 << 20 })
      // Only the allocation is of interest: no device stands behind it.
      const { layout, pieces } = ModernDriverTransport.prototype.allocateRing.call(undefined as never, memory, size)
      expect([layout.descriptorTable % 16, layout.availableRing % 2, layout.usedRing % 4]).toEqual([0, 0, 0])
      const parts = [
        [layout.descriptorTable, 16 * size],
        [layout.availableRing, 6 + 2 * size],
        [layout.usedRing, 6 + 8 * size],
      ].sort(([left = 0], [right = 0]) => left - right)
      parts.forEach(([start = 0], index) => {
        const [before = 0, length = 0] = parts[index - 1] ?? []
        expect(start).toBeGreaterThanOrEqual(before + length)
      })
      for (const piece of pieces) memory.free(piece)
      expect(memory.available).toBe(2 << 20)
    }
  })
})

describe("the words of a ring", () => {
  const layout = { queueSize: 4, descriptorTable: 0x100, availableRing: 0x202, usedRing: 0x304 }

  it("VQ-03 descriptors and the available ring have the bytes of the specification", () => {
    const platform = ramPlatform(0x1000)
    const ring = new RingMemory(new GuestRam(platform), layout)
    ring.writeDescriptor(2, { address: 0x1122_3344_5566_7788n, length: 0x99aa_bbcc, flags: 0x0507, next: 0x0102 })
    expect([...platform.ram.subarray(0x120, 0x130)]).toEqual([
      0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xcc, 0xbb, 0xaa, 0x99, 0x07, 0x05, 0x02, 0x01,
    ])
    ring.writeDescriptor(3, { address: 0x1_2345_6789, length: 7 })
    expect([...platform.ram.subarray(0x130, 0x140)]).toEqual([0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0])
    expect(ring.readDescriptor(3)).toEqual({ address: 0x1_2345_6789, length: 7, flags: 0, next: 0 })

    ring.availableFlags = 0x0001
    ring.availableIndex = 0xfffe
    ring.setAvailableEntry(0, 0x0a0b)
    ring.setAvailableEntry(0xffff, 0x0c0d)
    ring.usedEvent = 0x1_2345
    expect([...platform.ram.subarray(0x202, 0x210)]).toEqual([1, 0, 0xfe, 0xff, 0x0b, 0x0a, 0, 0, 0, 0, 0x0d, 0x0c, 0x45, 0x23])
    expect([ring.availableFlags, ring.availableIndex, ring.usedEvent]).toEqual([1, 0xfffe, 0x2345])
  })

  it("VQ-03 the used ring is read from the bytes of the specification", () => {
    const platform = ramPlatform(0x1000)
    const ring = new RingMemory(new GuestRam(platform), layout)
    platform.ram.set([1, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0x78, 0x56, 0x34, 0x92], 0x304)
    platform.ram.set([0xcd, 0xab], 0x304 + 4 + 8 * 4)
    expect([ring.usedFlags, ring.usedIndex, ring.availableEvent]).toEqual([1, 0x1234, 0xabcd])
    expect(ring.usedElement(5)).toEqual({ id: 3, length: 0x9234_5678 })
  })

  it("VQ-01 a misaligned part, or one outside of RAM, is refused before it is used", () => {
    const ram = new GuestRam(ramPlatform(0x1000))
    expect(() => new RingMemory(ram, { ...layout, descriptorTable: 0x108 })).toThrow(/multiple of 16/)
    expect(() => new RingMemory(ram, { ...layout, availableRing: 0x201 })).toThrow(/multiple of 2/)
    expect(() => new RingMemory(ram, { ...layout, usedRing: 0x302 })).toThrow(/multiple of 4/)
    // 6 + 8 * 4 = 38 bytes: the last place is 0x1000 - 40, at an alignment of 4.
    expect(() => new RingMemory(ram, { ...layout, usedRing: 0x1000 - 40 })).not.toThrow()
    expect(() => new RingMemory(ram, { ...layout, usedRing: 0x1000 - 36 })).toThrow(/not in guest RAM/)
    expect(() => new RingMemory(ram, { ...layout, usedRing: 0x202 + 10 })).toThrow(/overlaps/)
    expect(() => new RingMemory(ram, { ...layout, usedRing: 0x202 + 14 })).not.toThrow()
    expect(() => new RingMemory(ram, { ...layout, descriptorTable: 2 ** 60 })).toThrow(RangeError)
  })

  it("RAM that starts at an odd offset of its buffer is refused, since ring indices would be misaligned", () => {
    expect(() => new GuestRam(ramPlatform(new Uint8Array(new ArrayBuffer(64), 1)))).toThrow(/odd offset/)
  })
})
