// Pure: which VM the page's path names, and what the page says of its job.

/** Return the id, UUID, domain or name in /vms/VM/console, '' in any other path. */
export function vmIn(path) {
  try {
    return decodeURIComponent(path.match(/\/vms\/([^/]+)\/console$/)?.[1] ?? '');
  } catch {
    return '';
  }
}

/** Return what a job of the API does at the time `now` (ms), '' without a job. */
export function stepOf(job, now) {
  if (!job) return '';
  if (job.status !== 'running') return `${job.action}: ${job.status}`;
  const limit = job.stepTimeoutSeconds;
  if (!limit) return job.step || job.action;
  // The clocks of browser and service may differ.
  const waited = Math.trunc((now - Date.parse(job.stepStartedAt)) / 1000);
  return `${job.step} … ${Math.max(0, Math.min(limit, waited))} of ${limit} s`;
}
