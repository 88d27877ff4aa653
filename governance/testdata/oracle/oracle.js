// Cedar's own engine behind a pipe: a question on each line of stdin, an answer
// on each line of stdout, in JSON.
//
//   {op: "world", schema, policies: {id: text}, checked: {id: text}, entities}
//     -> {invalid: {id: [message]}}   of checked, by the validator in strict mode
//   {op: "ask", principal, action, resource, context, entities}
//     -> {decision, reason: [id], errors: [id]}   by policies, with the world's
//        entities and those of the question; the request must fit the schema
'use strict'
const cedar = require('@cedar-policy/cedar-wasm/nodejs')
const lines = require('readline').createInterface({ input: process.stdin, crlfDelay: Infinity })

let entities = []
const key = (e) => JSON.stringify([e.uid.type, e.uid.id])

const world = (q) => {
  entities = q.entities
  for (const [what, r] of [
    ['schema', cedar.preparseSchema('schema', q.schema)],
    ['policies', cedar.preparsePolicySet('policies', { staticPolicies: q.policies })],
  ]) {
    if (r.type !== 'success') return { error: what + ': ' + JSON.stringify(r.errors) }
  }
  const r = cedar.validate({ schema: q.schema, policies: { staticPolicies: q.checked } })
  if (r.type !== 'success') return { error: 'validate: ' + JSON.stringify(r.errors) }
  const invalid = {}
  for (const e of r.validationErrors) (invalid[e.policyId] ??= []).push(e.error.message)
  return { invalid }
}

const ask = (q) => {
  const mine = new Set(q.entities.map(key))
  const r = cedar.statefulIsAuthorized({
    principal: q.principal, action: q.action, resource: q.resource, context: q.context,
    entities: entities.filter((e) => !mine.has(key(e))).concat(q.entities),
    preparsedPolicySetId: 'policies', preparsedSchemaName: 'schema', validateRequest: true,
  })
  if (r.type !== 'success') return { error: JSON.stringify(r.errors) }
  const { decision, diagnostics } = r.response
  return { decision, reason: diagnostics.reason, errors: diagnostics.errors.map((e) => e.policyId) }
}

lines.on('line', (line) => {
  let answer
  try {
    const q = JSON.parse(line)
    answer = q.op === 'world' ? world(q) : ask(q)
  } catch (e) {
    answer = { error: String(e) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
})
