// Reads dashboards as Grafana does: prints {units: unknown ones, tables: title -> [columns, rows]}.
// Usage: node read.cjs DASHBOARD.json …; each query of a table returns two series.
'use strict';
const fs = require('fs');

// @grafana/data expects a browser.
global.window = {};
global.navigator = { language: 'en', languages: ['en'] };
const { getValueFormats, standardTransformers, standardTransformersRegistry, toDataFrame, transformDataFrame } =
  require('@grafana/data');

const used = ['merge', 'organizeFields', 'filterFields', 'filterFieldsByName', 'orderFields', 'renameFields'];
standardTransformersRegistry.setInit(() =>
  used.map((name) => standardTransformers[`${name}Transformer`]).map((transformation) => ({
    id: transformation.id, name: transformation.name, transformation,
  })));
const known = new Set(getValueFormats().flatMap((group) => group.submenu.map((format) => format.value)));

function unitsOf(panel) {
  const set = panel.fieldConfig.overrides.flatMap((override) => override.properties)
    .filter((property) => property.id === 'unit').map((property) => property.value);
  return [panel.fieldConfig.defaults.unit, ...set].filter((unit) => unit);
}

// What Prometheus answers, as Grafana's data source makes a table of it.
function frameOf(target, single) {
  const labels = /by \(([^)]*)\)/.exec(target.expr)[1].split(',').map((label) => label.trim());
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: 'time', values: [0, 0] },
      ...labels.map((name) => ({ name, type: 'string', values: [`${name}-1`, `${name}-2`] })),
      { name: single ? 'Value' : `Value #${target.refId}`, type: 'number', values: [1, 2] },
    ],
  });
}

async function main() {
  const panels = process.argv.slice(2).flatMap((path) => JSON.parse(fs.readFileSync(path, 'utf8')).panels);
  const tables = {};
  for (const panel of panels.filter((each) => each.type === 'table')) {
    const frames = panel.targets.map((target) => frameOf(target, panel.targets.length === 1));
    const [table, ...more] = await new Promise((done, failed) =>
      transformDataFrame(panel.transformations, frames).subscribe({ next: done, error: failed }));
    if (more.length) throw new Error(`${panel.title}: ${more.length + 1} tables in place of one`);
    tables[panel.title] = [table.fields.map((field) => field.config.displayName || field.name), table.length];
  }
  const units = panels.flatMap(unitsOf).filter((unit) => !known.has(unit));
  console.log(JSON.stringify({ units, tables }));
}

main();
