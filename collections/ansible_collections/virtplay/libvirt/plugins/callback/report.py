# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reports ansible-playbook runs from a shell to the service (callback plugin `report`)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report
type: notification
short_description: Shows your runs among the jobs of a Virtplay service
version_added: 0.1.0
author:
  - Virtplay contributors (@virtplay)
description:
  - Reports each playbook that you run from a shell to a Virtplay service, which lists it as a job
    with C(origin) V(shell), beside those that it runs itself. Its playbook, hosts, VM, user,
    progress, log and outcome are there for everybody who may look.
  - The service only shows such a run. It neither locks a VM for it nor ends nor repeats it; the
    modules of this collection see to it by themselves that two runs do not change one VM at once.
  - A service that is away, slow or does not want the report never fails a run or holds it up. It
    is sent from a thread, waits in a queue of bounded length, and what does not arrive is one
    warning. At its end a run waits for the last of it, up to 5 seconds when the service has
    answered before, and up to one when not.
  - A run that is ended by Ctrl-C (SIGINT), SIGTERM or a terminal that goes away (SIGHUP) is
    C(cancelled) in the list at once, and says what ended it. On SIGTERM and SIGHUP the service is
    told before Ansible ends its tasks, which waits for it as the end of a run does; a second signal
    ends the run without that.
  - A run that is killed otherwise (SIGKILL) becomes C(lost) in the list after a minute without a
    sign of it.
  - Runs of the service itself are not reported.
  - What tasks with C(no_log) do is not told. Of the extra variables only those appear that say
    what the collection's roles do, such as C(libvirt_domain_name). Values of extra variables
    whose names sound like secrets, and the token, are made unreadable wherever they turn up. All
    else that Ansible prints on the terminal without C(-v) may stand in the log.
requirements:
  - enable in configuration
  - a Virtplay service, and a token of it with the role operator
options:
  url:
    description:
      - Where the service is.
      - A certificate of an own authority is trusted when the file of the environment variable
        E(SSL_CERT_FILE) has that.
    type: str
    default: http://localhost:3000
    env:
      - name: VIRTPLAY_URL
    ini:
      - section: virtplay
        key: url
  token:
    description: The token that lets the report in. Without one nothing is reported.
    type: str
    env:
      - name: VIRTPLAY_TOKEN
    ini:
      - section: virtplay
        key: token
  validate_certs:
    description: Whether an C(https) service must have a certificate that is trusted here.
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

# The service sets it for the plays that it runs itself, which are jobs already.
SERVICE_MARK = "VIRTPLAY_RUN"
HOSTS_LIMIT = 1000
BROKEN_OFF = {
    "code": "RUN_INTERRUPTED",
    "message": "cannot finish: the run broke off before its end",
}
# Of these Ansible handles SIGINT, which becomes an exception and then an exit, and SIGTERM, after
# which the process dies at once, as it does of SIGHUP without.
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
        """Read the options; without a token, or in a run of the service, there is nothing to do."""
        super().set_options(*args, **kwargs)
        if os.environ.get(SERVICE_MARK):
            self.disabled = True
            return
        url, token = str(self.get_option("url")), str(self.get_option("token") or "")
        self._where = url
        if not url.startswith(("http://", "https://")):
            self._warn(f"cannot use the URL {url}: it must be like http://localhost:3000")
            self.disabled = True
        elif not token:
            self._warn("cannot report this run without a token: set VIRTPLAY_TOKEN")
            self.disabled = True
        elif not (token.isascii() and token.isprintable()) or " " in token:
            self._warn("cannot use the token: it holds spaces or other odd characters")
            self.disabled = True
        self._token = token
        self._post = make_post(url, token, bool(self.get_option("validate_certs")))

    # --- the run ---

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Take note of the playbook: a run is reported once it has something to do."""
        self._playbook = playbook

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Begin the report with the first play."""
        manager = play.get_variable_manager()
        variables = manager.get_vars(play=play)
        everybody = [str(host) for host in variables.get("ansible_play_hosts_all") or ()]
        batch = variables.get("ansible_play_batch") or ()
        if self._sender is None:
            self._begin(dict(manager.extra_vars))
        number = self._plays.index(play._uuid) if play._uuid in self._plays else 0
        self._last_task = None
        self._meter.begin_play(number, len(batch) / len(everybody) if everybody else 1.0)
        self._hosts += [host for host in everybody if host not in self._hosts]
        self._tell(hosts=self._hosts[:HOSTS_LIMIT], domains=self._domains.listed())
        self._add("playbook_on_play_start", banner(f"PLAY [{play.get_name().strip()}]"))

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Say why nothing was done."""
        self._add("output", "skipping: no hosts matched")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Move on by one task."""
        self._begin_task(task, "TASK")

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Move on by one handler."""
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
        """Report a task that went well on one host."""
        host, answer = _host_of(result), _answer_of(result)
        self._see(answer, host)
        word = "changed" if answer.get("changed") else "ok"
        text = "" if _is_loop(result) else result_line(word, host, told=_told(answer))
        self._add("runner_on_ok", text, result, res=result_of(answer, self._redactor))

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Report a task that one host does not need."""
        text = result_line("skipping", _host_of(result))
        self._add("runner_on_skipped", "" if _is_loop(result) else text, result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Report a task that failed on one host; of a loop, why its first item did."""
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
        self._see(answer, host)
        word = "changed" if answer.get("changed") else "ok"
        item = self._get_item_label(answer)
        self._add("output", result_line(word, host, item=item, told=_told(answer)), result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Log one item of a loop that failed, and keep why: the task itself does not say it."""
        host, answer = _host_of(result), _answer_of(result)
        self._item_failure.setdefault((host, _task_of(result)._uuid), answer)
        item = self._get_item_label(answer)
        self._add("output", result_line("failed", host, item=item, told=reason_of(answer)), result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Log one item of a loop that was not needed."""
        item = self._get_item_label(_answer_of(result))
        self._add("output", result_line("skipping", _host_of(result), item=item), result)

    def v2_runner_retry(self, result: Any) -> None:
        """Log that a task is tried again."""
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
        atexit.register(self._break_off)
        self._watch_signals()

    def _begin_task(self, task: Any, word: str) -> None:
        # With the strategy free each host begins it for itself.
        if self._sender is None or task._uuid == self._last_task:
            return
        self._last_task = task._uuid
        text = banner(f"{word} [{task.get_name().strip()}]")
        # Without its role's name, as the service has the tasks of its own runs.
        name = self._redactor.line(task.name or task.action)
        self._sender.add(
            {
                "event": "playbook_on_task_start",
                "task": name,
                "text": self._redactor.text(text),
                "percent": self._meter.begin_task(),
            }
        )

    def _see(self, answer: Any, host: str) -> None:
        if self._sender is not None and self._domains.see(answer, host):
            self._tell(domains=self._domains.listed())

    def _tell(self, **news: Any) -> None:
        if self._sender is not None:
            self._sender.tell(**news)

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
        atexit.unregister(self._break_off)
        sender.close(**end)
        if sender.problem:
            self._warn(
                f"cannot report this run to {self._where}, or not all of it: {sender.problem}"
            )

    def _break_off(self) -> None:
        # A fork of this process has not run the playbook.
        if os.getpid() != self._process:
            return
        if self._interrupted_by is None:
            self._end(outcome="failed", error=BROKEN_OFF)
            return
        message = (
            f"cannot finish: the run was ended by {self._interrupted_by}; what it had begun on a"
            " host may have gone on"
        )
        self._end(outcome="cancelled", error={"code": "RUN_INTERRUPTED", "message": message})

    def _watch_signals(self) -> None:
        """Come before Ansible's own handling of the signals that end a run."""
        if self._handlers or threading.current_thread() is not threading.main_thread():
            return
        for number in (getattr(signal, name) for name in ENDING_SIGNALS if hasattr(signal, name)):
            handler = signal.getsignal(number)
            # One that is ignored, as under nohup, ends nothing.
            if handler is not None and handler != signal.SIG_IGN:
                self._handlers[number] = handler
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        handler = self._handlers[number]
        # A second one does not wait for the report.
        signal.signal(number, handler)
        self._interrupted_by = signal.Signals(number).name
        # SIGINT becomes an exception, after which Ansible tidies up and this process exits; on all
        # others it dies without.
        try:
            if number != signal.SIGINT:
                self._break_off()
        finally:
            if callable(handler):
                handler(number, frame)
            else:
                os.kill(os.getpid(), number)

    def _warn(self, text: str) -> None:
        self._display.warning(f"virtplay.libvirt.report: {text}")


def _answer_of(result: Any) -> Any:
    """Return what a task answered; ansible-core 2.19 gave it a public name."""
    return result.result if hasattr(result, "result") else result._result


def _task_of(result: Any) -> Any:
    return result.task if hasattr(result, "task") else result._task


def _host_of(result: Any) -> str:
    host = result.host if hasattr(result, "host") else result._host
    return str(host.get_name())


def _is_loop(result: Any) -> bool:
    return bool(_task_of(result).loop) and "results" in _answer_of(result)


def _told(answer: Any) -> str:
    """Return what a task prints on the terminal by its nature, as debug does."""
    return str(answer.get("msg") or "") if answer.get("_ansible_verbose_always") else ""


def _is_same(path: Any, name: str) -> bool:
    return os.path.realpath(str(path)) == os.path.realpath(name)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
