/**
 * EIO and ENOSPC at every call of a workload: the request that meets it fails, the image stays consistent, and what it held can be read.
 */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { DurableModel } from "../../support/durable-model.ts"
import { FailingFile, type FailurePlan } from "../../support/failing-file.ts"
import type { FlatModel } from "../../support/flat-model.ts"
import { goldenBytes } from "../../support/golden.ts"
import { goldenBacking, modelOf, openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { applyOperation, describeOperation, type Operation, randomOperation } from "../../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(31)
const OPERATIONS = 24
const images = [
  "v3-512.qcow2", "snapshots.qcow2", "zlib-512.qcow2", "overlay-short.qcow2", "refcount-64.qcow2", "zero.qcow2",
  "overlay-extended-l2.qcow2", "extended-l2-zlib.qcow2",
]
const plans: readonly Omit<FailurePlan, "at">[] = [
  { code: "io", calls: ["write", "truncate", "sync"], duration: "once" },
  { code: "no-space", calls: ["write", "truncate"], duration: "for-good", partial: 0.5 },
  { code: "io", calls: ["read"], duration: "once" },
  { code: "io", calls: ["sync"], duration: "once" },
]

interface Run {
  readonly file: MemoryFile
  readonly failing: FailingFile
  readonly disk: Qcow2Image
  readonly model: FlatModel
  readonly openBacking: NonNullable<Parameters<typeof openInMemory>[1]>["openBacking"]
}

function start(name: string): Run {
  const file = MemoryFile.of(goldenBytes(name), { path: name })
  const failing = new FailingFile(file)
  const openBacking = goldenBacking(name)
  const clusterSize = 2 ** new DataView(goldenBytes(name).buffer).getUint32(20)
  const disk = openInMemory(failing, { openBacking, cacheSize: 6 * clusterSize })
  return { file, failing, disk, model: modelOf(disk), openBacking }
}

/** Does the operation; the error it fails with, if it does. Its range is then taken over as it reads: each byte old or new. */
function attempt({ disk, model, failing }: Run, operation: Operation, clusterSize: number): BackingError | undefined {
  const failuresBefore = failing.failures
  try {
    applyOperation(disk, model, operation, { zeroesClustersOf: clusterSize })
    return undefined
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    expect(
      failing.failures, `${describeOperation(operation)} failed although nothing did: ${error.message}`,
    ).toBeGreaterThan(failuresBefore)
    if (operation.kind === "write" || operation.kind === "discard" || operation.kind === "writeZeroes") {
      adopt(disk, model, operation, failing)
    }
    return error
  }
}

function adopt(disk: Qcow2Image, model: FlatModel, operation: Extract<Operation, { offset: number }>, failing: FailingFile): void {
  const { plan } = failing
  failing.plan = undefined
  const length = operation.kind === "write" ? operation.data.length : operation.length
  const content = new Uint8Array(length)
  disk.pread(content, operation.offset)
  failing.plan = plan
  const durable = DurableModel.flushed(model)
  if (operation.kind === "write") durable.write(operation.data, operation.offset)
  else durable.zero(operation.offset, length)
  model.write(content, operation.offset)
  durable.check({ size: model.size, pread: (buffer, offset) => buffer.set(model.read(offset, buffer.length)) })
}

/** Runs the workload with a failure at call `at`. Returns whether there was such a call. */
function faultRound(name: string, plan: FailurePlan): boolean {
  const run = start(name)
  const clusterSize = run.disk.geometry.clusterSize
  const rng = new Rng(seed)
  run.failing.plan = plan
  let errors = 0
  let durable = DurableModel.flushed(run.model)
  for (let index = 0; index < OPERATIONS; index++) {
    const operation = randomOperation(rng, { size: run.disk.size, focus: 40_000, longest: 6000 })
    const error = attempt(run, operation, clusterSize)
    if (error !== undefined) {
      errors++
      expect(error.code).toBe(plan.code)
    }
    if (operation.kind === "flush" && error === undefined) durable = DurableModel.flushed(run.model)
    else noteChange(durable, operation)
  }
  if (plan.duration === "once") expect(errors, "one failure fails one request at the most").toBeLessThanOrEqual(1)
  const failed = closes(run)
  if (plan.duration === "once" && !failed) durable = DurableModel.flushed(run.model)
  run.failing.plan = undefined

  const found = checkQcow2(run.file.clone({ readOnly: true }))
  expect(found.findings.filter((finding) => finding.kind !== "leak")).toEqual([])
  // What failed once has been undone or done again by the end, to the last cluster.
  if (!failed) expect(found.leaks).toBe(0)
  const reopened = openInMemory(run.file.clone(), { ...(run.openBacking === undefined ? {} : { openBacking: run.openBacking }) })
  durable.check(reopened)
  reopened.pwrite(new Rng(1).bytes(20_000), 0)
  reopened.close()
  return run.failing.failures > 0
}

function noteChange(durable: DurableModel, operation: Operation): void {
  if (operation.kind === "write") durable.write(operation.data, operation.offset)
  else if (operation.kind === "discard" || operation.kind === "writeZeroes") durable.zero(operation.offset, operation.length)
}

function closes(run: Run): boolean {
  try {
    run.disk.close()
    return false
  } catch (error) {
    expect(error).toBeInstanceOf(BackingError)
    return true
  }
}

describe(`injected failures, seed ${seed}`, () => {
  for (const name of images) {
    for (const plan of plans) {
      it(`QC-L2-11 QC-WO-08 ${name}: ${plan.code} at every ${plan.calls.join(" or ")}, ${plan.duration}`, () => {
        let at = 1
        while (faultRound(name, { ...plan, at })) at++
        expect(at).toBeGreaterThan(1)
      })
    }
  }
})
