# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Report ansible-playbook runs from a shell to the service (callback plugin `report`)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report
type: notification
short_description: Shows runs from a shell among the jobs of a Virtplay service
version_added: 0.1.0
author:
  - Virtplay contributors (@virtplay)
description:
  - Reports each playbook that you run from a shell to a Virtplay service. The service lists the run
    as a job with C(origin) V(shell), beside the jobs that it runs itself. All users of the service
    can see the playbook, hosts, VM, user, progress, log and outcome.
  - The service only shows such a run. It does not lock a VM for the run, and does not stop or
    repeat the run. The modules of this collection prevent two runs from changing one VM at the same
    time.
  - A service that is unreachable or slow, or that rejects the report, never fails or delays a run.
    A thread sends the report from a queue of limited length. If a part of it cannot be sent, one
    warning is shown. At its end, a run waits for the rest of the report, up to 5 seconds if the
    service has responded before, and up to one second if not.
  - A run that is interrupted by Ctrl-C (SIGINT), SIGTERM or a closed terminal (SIGHUP) is listed as
    C(cancelled) immediately, with the signal as the reason. On SIGTERM and SIGHUP, the report is
    sent before Ansible stops its tasks, with the same waiting time as at the end of a run. A second
    signal stops the run without waiting.
  - A run that is killed (SIGKILL) is listed as C(lost) after one minute without a report.
  - Runs of the service itself are not reported.
  - Tasks with C(no_log) are reported without their content. Only those extra variables are reported
    that show what the collection's roles do, such as C(libvirt_domain_name). The token and the
    values of extra variables whose names suggest secrets are masked everywhere. The log may
    contain everything else that Ansible prints on the terminal without C(-v).
requirements:
  - enable in configuration
  - a Virtplay service, and one of its tokens with the role operator
options:
  url:
    description:
      - URL of the service.
      - For a private certificate authority, point E(SSL_CERT_FILE) at a bundle that contains it.
    type: str
    default: http://localhost:3000
    env:
      - name: VIRTPLAY_URL
    ini:
      - section: virtplay
        key: url
  token:
    description: Token for the service. Without a token, nothing is reported.
    type: str
    env:
      - name: VIRTPLAY_TOKEN
    ini:
      - section: virtplay
        key: token
  validate_certs:
    description: Whether the certificate of an C(https) service is verified.
    type: bool
    default: true
    env:
      - name: VIRTPLAY_VALIDATE_CERTS
    ini:
      - section: virtplay
        key: validate_certs
"""

EXAMPLES = r"""
shell: |
  export ANSIBLE_CALLBACKS_ENABLED=virtplay.libvirt.report
  export VIRTPLAY_URL=https://virt.example.org VIRTPLAY_TOKEN=...
  ansible-playbook playbooks/vm_start.yml --limit kvm1 -e libvirt_domain_name=web-1

ansible.cfg: |
  [defaults]
  callbacks_enabled = virtplay.libvirt.report

  [virtplay]
  url = https://virt.example.org
"""

import atexit
import getpass
import os
import signal
import socket
import threading
import uuid
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.report_sender import (
    Sender,
    make_post,
)
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.run_report import (
    COMMAND_LIMIT,
    Domains,
    Meter,
    Redactor,
    banner,
    command_of,
    failure_of,
    reason_of,
    result_line,
    result_of,
    total_tasks,
)

# The service sets this variable for the playbooks that it runs itself, which are already jobs.
SERVICE_MARK = "VIRTPLAY_RUN"
HOSTS_LIMIT = 1000
INTERRUPTED = {
    "code": "RUN_INTERRUPTED",
    "message": "cannot finish: the run stopped before its end",
}
# Ansible turns SIGINT into an exception and exits. After SIGTERM, which Ansible handles, and after
# SIGHUP, which it does not handle, the process ends immediately.
ENDING_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class CallbackModule(CallbackBase):
    """Turns Ansible's callbacks into the events of a report."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "virtplay.libvirt.report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._playbook: Any = None
        self._sender: Sender | None = None
        self._hosts: list[str] = []
        self._last_task: str | None = None
        self._item_failure: dict[tuple[str, str], Any] = {}
        self._process = os.getpid()
        self._handlers: dict[int, Any] = {}
        self._interrupted_by: str | None = None

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        """Read the options; disable the plugin without a token and in runs of the service."""
        super().set_options(*args, **kwargs)
        if os.environ.get(SERVICE_MARK):
            self.disabled = True
            return
        url, token = str(self.get_option("url")), str(self.get_option("token") or "")
        self._url = url
        if not url.startswith(("http://", "https://")):
            self._warn(f"cannot use the URL {url}: it must be like http://localhost:3000")
            self.disabled = True
        elif not token:
            self._warn("cannot report this run: no token; set VIRTPLAY_TOKEN")
            self.disabled = True
        elif not (token.isascii() and token.isprintable()) or " " in token:
            self._warn("cannot use the token: it contains spaces or non-ASCII characters")
            self.disabled = True
        self._token = token
        self._post = make_post(url, token, bool(self.get_option("validate_certs")))

    # --- the run ---

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Store the playbook; its run is reported from the first play on."""
        self._playbook = playbook

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Begin the report with the first play."""
        manager = play.get_variable_manager()
        variables = manager.get_vars(play=play)
        all_hosts = [str(host) for host in variables.get("ansible_play_hosts_all") or ()]
        batch = variables.get("ansible_play_batch") or ()
        if self._sender is None:
            self._begin(dict(manager.extra_vars))
        number = self._plays.index(play._uuid) if play._uuid in self._plays else 0
        self._last_task = None
        self._meter.begin_play(number, len(batch) / len(all_hosts) if all_hosts else 1.0)
        self._hosts += [host for host in all_hosts if host not in self._hosts]
        self._update(hosts=self._hosts[:HOSTS_LIMIT], domains=self._domains.listed())
        self._add("playbook_on_play_start", banner(f"PLAY [{play.get_name().strip()}]"))

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Log that no hosts matched."""
        self._add("output", "skipping: no hosts matched")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Report the start of a task."""
        self._begin_task(task, "TASK")

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Report the start of a handler."""
        self._begin_task(task, "RUNNING HANDLER")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """End the report."""
        if self._sender is None:
            return
        lines = [banner("PLAY RECAP")]
        failed = False
        for host in sorted(stats.processed):
            counts = stats.summarize(host)
            failed = failed or bool(counts["failures"] or counts["unreachable"])
            keys = ("ok", "changed", "unreachable", "failures", "skipped", "rescued", "ignored")
            words = " ".join(f"{key.replace('failures', 'failed')}={counts[key]}" for key in keys)
            lines.append(f"{host} : {words}")
        self._add("playbook_on_stats", "\n".join(lines))
        self._end(outcome="failed" if failed else "succeeded")

    # --- results ---

    def v2_runner_on_ok(self, result: Any) -> None:
        """Report a task that succeeded on one host."""
        host, answer = _host_of(result), _answer_of(result)
        self._note_domains(answer, host)
        word = "changed" if answer.get("changed") else "ok"
        text = "" if _is_loop(result) else result_line(word, host, text=_terminal_text(answer))
        self._add("runner_on_ok", text, result, res=result_of(answer, self._redactor))

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Report a task that was skipped on one host."""
        text = result_line("skipping", _host_of(result))
        self._add("runner_on_skipped", "" if _is_loop(result) else text, result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Report a task that failed on one host; for a loop, why its first failed item did."""
        host = _host_of(result)
        answer = self._item_failure.pop((host, _task_of(result)._uuid), None) or _answer_of(result)
        text = "" if _is_loop(result) else f"fatal: [{host}]: FAILED! => {reason_of(answer)}"
        text += "\n...ignoring" if ignore_errors else ""
        failure = failure_of(answer, self._redactor)
        self._add("runner_on_failed", text, result, res=failure, ignoreErrors=bool(ignore_errors))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Report a host that could not be reached."""
        answer = _answer_of(result)
        text = f"fatal: [{_host_of(result)}]: UNREACHABLE! => {reason_of(answer)}"
        ignored = bool(getattr(_task_of(result), "ignore_unreachable", False))
        failure = failure_of(answer, self._redactor)
        self._add("runner_on_unreachable", text, result, res=failure, ignoreErrors=ignored)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Log one item of a loop."""
        host, answer = _host_of(result), _answer_of(result)
        self._note_domains(answer, host)
        word = "changed" if answer.get("changed") else "ok"
        item = self._get_item_label(answer)
        self._add("output", result_line(word, host, item=item, text=_terminal_text(answer)), result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Log a failed item of a loop, and store its reason, which the task's result lacks."""
        host, answer = _host_of(result), _answer_of(result)
        self._item_failure.setdefault((host, _task_of(result)._uuid), answer)
        item = self._get_item_label(answer)
        self._add("output", result_line("failed", host, item=item, text=reason_of(answer)), result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Log a skipped item of a loop."""
        item = self._get_item_label(_answer_of(result))
        self._add("output", result_line("skipping", _host_of(result), item=item), result)

    def v2_runner_retry(self, result: Any) -> None:
        """Log that a task is retried."""
        answer = _answer_of(result)
        left = int(answer.get("retries") or 0) - int(answer.get("attempts") or 0)
        task = _task_of(result).get_name()
        self._add(
            "output", f"FAILED - RETRYING: [{_host_of(result)}]: {task} ({left} left)", result
        )

    def v2_on_file_diff(self, result: Any) -> None:
        """Log what --diff shows."""
        answer = _answer_of(result)
        answers = answer["results"] if _is_loop(result) else [answer]
        for each in answers:
            if each.get("diff") and (each.get("changed") or context.CLIARGS.get("check")):
                self._add("output", self._get_diff(each["diff"]), result)

    # --- the report ---

    def _begin(self, variables: dict[str, Any]) -> None:
        self._redactor = Redactor(variables, [self._token])
        self._domains = Domains(variables)
        self._hosts = []
        plays = self._playbook.get_plays() if self._playbook else []
        self._plays = [play._uuid for play in plays]
        self._meter = Meter([total_tasks(play.compile()) for play in plays])
        name = getattr(self._playbook, "_file_name", None) or "ad-hoc"
        program = "ansible-playbook" if self._playbook else "ansible"
        given = [path for path in context.CLIARGS.get("args") or () if _is_same(path, name)]
        command = command_of(context.CLIARGS, variables, program) if self._playbook else program
        begin = {
            "runId": str(uuid.uuid4()),
            "playbook": self._redactor.line(given[0] if given else name),
            "user": self._redactor.line(f"{_user()}@{socket.gethostname()}"),
            "command": self._redactor.line(command, COMMAND_LIMIT),
            "dryRun": bool(context.CLIARGS.get("check")),
        }
        self._sender = Sender(self._post, begin)
        self._sender.start()
        atexit.register(self._report_interruption)
        self._watch_signals()

    def _begin_task(self, task: Any, word: str) -> None:
        # With the strategy `free`, each host starts the task separately.
        if self._sender is None or task._uuid == self._last_task:
            return
        self._last_task = task._uuid
        text = banner(f"{word} [{task.get_name().strip()}]")
        # Without the role's name, like the tasks of the service's own runs.
        name = self._redactor.line(task.name or task.action)
        self._sender.add(
            {
                "event": "playbook_on_task_start",
                "task": name,
                "text": self._redactor.text(text),
                "percent": self._meter.begin_task(),
            }
        )

    def _note_domains(self, answer: Any, host: str) -> None:
        if self._sender is not None and self._domains.add(answer, host):
            self._update(domains=self._domains.listed())

    def _update(self, **changes: Any) -> None:
        if self._sender is not None:
            self._sender.update(**changes)

    def _add(self, event: str, text: str, result: Any = None, **more: Any) -> None:
        if self._sender is None:
            return
        entry = {"event": event, "text": self._redactor.text(text), **more}
        if result is not None:
            task = _task_of(result)
            entry["host"] = self._redactor.line(_host_of(result))
            entry["task"] = self._redactor.line(task.name or task.action)
        self._sender.add(entry)

    def _end(self, **end: Any) -> None:
        sender, self._sender = self._sender, None
        if sender is None:
            return
        atexit.unregister(self._report_interruption)
        sender.close(**end)
        if sender.problem:
            self._warn(f"cannot fully report this run to {self._url}: {sender.problem}")

    def _report_interruption(self) -> None:
        # A forked child inherits this exit handler, but the run belongs to the parent process.
        if os.getpid() != self._process:
            return
        if self._interrupted_by is None:
            self._end(outcome="failed", error=INTERRUPTED)
            return
        message = (
            f"cannot finish: {self._interrupted_by} interrupted the run; tasks that it had started"
            " on a host may still be running"
        )
        self._end(outcome="cancelled", error={"code": "RUN_INTERRUPTED", "message": message})

    def _watch_signals(self) -> None:
        """Install signal handlers that run before Ansible's own handlers."""
        if self._handlers or threading.current_thread() is not threading.main_thread():
            return
        for number in (getattr(signal, name) for name in ENDING_SIGNALS if hasattr(signal, name)):
            handler = signal.getsignal(number)
            # An ignored signal, for example under nohup, does not end the run.
            if handler is not None and handler != signal.SIG_IGN:
                self._handlers[number] = handler
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        handler = self._handlers[number]
        # A second signal does not wait for the report.
        signal.signal(number, handler)
        self._interrupted_by = signal.Signals(number).name
        # After SIGINT, Ansible raises an exception, cleans up and exits. After the other signals
        # the process ends without cleanup, so the report is finished here.
        try:
            if number != signal.SIGINT:
                self._report_interruption()
        finally:
            if callable(handler):
                handler(number, frame)
            else:
                os.kill(os.getpid(), number)

    def _warn(self, text: str) -> None:
        self._display.warning(f"virtplay.libvirt.report: {text}")


def _answer_of(result: Any) -> Any:
    """Return a task's result; the attribute is public since ansible-core 2.19."""
    return result.result if hasattr(result, "result") else result._result


def _task_of(result: Any) -> Any:
    return result.task if hasattr(result, "task") else result._task


def _host_of(result: Any) -> str:
    host = result.host if hasattr(result, "host") else result._host
    return str(host.get_name())


def _is_loop(result: Any) -> bool:
    return bool(_task_of(result).loop) and "results" in _answer_of(result)


def _terminal_text(answer: Any) -> str:
    """Return the message of a task that always prints it on the terminal, like debug."""
    return str(answer.get("msg") or "") if answer.get("_ansible_verbose_always") else ""


def _is_same(path: Any, name: str) -> bool:
    return os.path.realpath(str(path)) == os.path.realpath(name)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
