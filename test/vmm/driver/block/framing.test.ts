/** How the driver cuts a request into descriptors. */
import { describe, expect, it } from "vitest"
import { planFrame, segmentsOf } from "../../../../src/vmm/driver/block/framing.ts"

const limits = { segmentSize: 1 << 20, descriptors: 16 }

describe("the framing of a block request", () => {
  it("BLK-01 by default the header, the data and the status have a descriptor each", () => {
    expect(planFrame({ dataOut: 0, dataIn: 4096, ...limits })).toEqual({ readable: [16], writable: [4096, 1] })
    expect(planFrame({ dataOut: 4096, dataIn: 0, ...limits })).toEqual({ readable: [16, 4096], writable: [1] })
    expect(planFrame({ dataOut: 0, dataIn: 0, ...limits })).toEqual({ readable: [16], writable: [1] })
    expect(planFrame({ dataOut: 512, dataIn: 20, ...limits })).toEqual({ readable: [16, 512], writable: [20, 1] })
  })

  it("BC-11 data is split into segments as large as the device takes, or as requested", () => {
    expect(planFrame({ dataOut: 0, dataIn: 1300, segmentSize: 512, descriptors: 16 }).writable).toEqual([512, 512, 276, 1])
    expect(planFrame({ dataOut: 1300, dataIn: 0, ...limits }, { segmentSize: 1000 }).readable).toEqual([16, 1000, 300])
    expect(() => planFrame({ dataOut: 8, dataIn: 0, ...limits }, { segmentSize: 0 })).toThrow(/segment size 0 is not a whole number/)
  })

  it("VQ-08 VQ-12 sizes may be given, down to one byte and none, and the rest is one more segment", () => {
    const ones = Array.from({ length: 16 }, () => 1)
    expect(
      planFrame({ dataOut: 0, dataIn: 512, segmentSize: 1, descriptors: 32 }, { readable: ones, writable: [0, 500] }),
    ).toEqual({ readable: ones, writable: [0, 500, 13] })
    expect(planFrame({ dataOut: 512, dataIn: 0, ...limits }, { readable: [] }).readable).toEqual([528])
    expect(
      planFrame({ dataOut: 0, dataIn: 0, ...limits }, { readable: [17, 5], writable: [0, 9] }),
    ).toEqual({ readable: [16], writable: [0, 1] })
    for (const bad of [-1, 0.5, Number.NaN]) {
      expect(() => planFrame({ dataOut: 0, dataIn: 0, ...limits }, { writable: [bad, 2] })).toThrow(/cannot have/)
    }
  })

  it("VQ-02 in a queue of two, readable and writable parts have one descriptor each", () => {
    expect(planFrame({ dataOut: 512, dataIn: 0, segmentSize: 512, descriptors: 2 })).toEqual({ readable: [528], writable: [1] })
    expect(planFrame({ dataOut: 0, dataIn: 512, segmentSize: 512, descriptors: 2 })).toEqual({ readable: [16], writable: [513] })
    expect(() => planFrame({ dataOut: 0, dataIn: 512, segmentSize: 512, descriptors: 1 })).toThrow(/longer than the queue/)
    expect(() => planFrame({ dataOut: 0, dataIn: 512, ...limits, descriptors: 2 }, { writable: [512] })).toThrow(/longer than the queue/)
  })

  it("segments follow one another in memory, readable ones first", () => {
    expect(segmentsOf({ readable: [16, 100], writable: [50, 1] }, 1000, 5000)).toEqual([
      { address: 1000, length: 16, writable: false },
      { address: 1016, length: 100, writable: false },
      { address: 5000, length: 50, writable: true },
      { address: 5050, length: 1, writable: true },
    ])
  })
})
