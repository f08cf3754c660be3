"""Makes FLARE believe a name only where a certificate proves it, in every FLARE process of ours.

FLARE compares the name that a process says with its certificate, but only on connections of mutual
TLS. It has others: its local port takes plain connections of every account of the machine, and a
message can make any process open a plain one. The newest connection of a name ends the one before.

Here every connection has mutual TLS, also at the local port. A process connects to its server and
to its parent alone. A message counts only for the party whose connection brought it. FLARE's agent
for diagnosis, which shows everybody a process's paths, addresses and threads, answers nobody.
"""

import logging
from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any, Final

from nvflare.apis.fl_constant import ConnectionSecurity
from nvflare.fuel.f3.cellnet.connector_manager import ConnectorManager
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessageType
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.identity import is_mtls_connection
from nvflare.fuel.f3.cellnet.net_agent import NetAgent
from nvflare.fuel.f3.comm_error import CommError
from nvflare.fuel.f3.drivers.connector_info import Mode
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import HandshakeKeys
from nvflare.fuel.utils.admin_name_utils import is_valid_admin_client_name
from nvflare.private.defs import CellChannel, CellChannelTopic

from asyndgan.relay.lines import check_calls, close_unused

log = logging.getLogger(__name__)

SERVER: Final = FQCN.ROOT_SERVER
UNKNOWN: Final = "FLARE's connections are others than this package knows; install nvflare 2.9"

CALLS: Final = (
    (CoreCell, "_process_received_msg", "_add_adhoc_connector"),
    (CoreCell, "_create_internal_listener", "get_internal_listener"),
    (ConnManager, "process_frame_task", "update_endpoint"),
    (ConnManager, "process_frame_task", "process_message"),
    (ConnManager, "update_endpoint", "require_match"),
    (NetAgent, "__init__", "register_request_cb"),
)
"""What is known of FLARE: a class, a method of it, and what that method calls."""

UNREGISTERED: Final = (CellChannelTopic.Challenge, CellChannelTopic.Register)
"""Topics of the messages by which a process registers; FLARE passes them without any token."""


def secure_connections() -> None:
    """Changes FLARE in this process, also as `close_unused`; before FLARE connects or listens.

    Raises:
        RuntimeError: this version of FLARE connects, listens or takes messages in another way.
    """
    check_calls(CALLS, UNKNOWN)
    changed: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
        (CoreCell, "_add_adhoc_connector", _connecting_nowhere),
        (CoreCell, "process_message", _taking_messages_of_their_sender),
        (ConnManager, "update_endpoint", _admitting_proved_names),
        (ConnectorManager, "get_internal_listener", _listening_by_tls),
        (NetAgent, "__init__", _answering_nobody),
    )
    for kind, name, change in changed:
        setattr(kind, name, change(getattr(kind, name)))
    close_unused()


def _connecting_nowhere(inner: Any) -> Any:
    def _add_adhoc_connector(cell: CoreCell, to_cell: str, url: str) -> None:
        log.warning("a message of %.100a names an address to connect to; ignored", to_cell)

    return _add_adhoc_connector


def _answering_nobody(inner: Any) -> Any:
    @wraps(inner)
    def begin(agent: NetAgent, cell: Any, *given: Any, **named: Any) -> None:
        deaf = SimpleNamespace(register_request_cb=lambda *_, **__: None)
        inner(agent, deaf, *given, **named)
        agent.cell = getattr(cell, "core_cell", cell)  # it may ask, as FLARE has it

    return begin


def _listening_by_tls(inner: Any) -> Any:
    def get_internal_listener(manager: Any, scheme: Any = None, resources: Any = None) -> Any:
        security = {DriverParams.CONNECTION_SECURITY.value: ConnectionSecurity.MTLS}
        return inner(manager, scheme, {**(resources or manager.int_resources), **security})

    return get_internal_listener


def _admitting_proved_names(inner: Any) -> Any:
    def update_endpoint(manager: ConnManager, sfm_conn: Any, data: dict[str, Any]) -> None:
        connection, own = sfm_conn.conn, manager.local_endpoint.name
        name = FQCN.normalize(str(data.get(HandshakeKeys.ENDPOINT_NAME)))
        holder = connection.get_conn_properties().get(DriverParams.PEER_CN.value)
        active = connection.connector.mode == Mode.ACTIVE
        shown = is_mtls_connection(connection.connector.params) and holder not in (None, "N/A")
        if not shown or not _may_be(name, holder, own, active):
            connection.close()
            by = f"the certificate of {holder}" if shown else "no certificate"
            raise CommError(
                CommError.BAD_DATA, f"{own} refuses a connection with {by} that says {name:.100a}"
            )
        inner(manager, sfm_conn, data)  # compares the name with the certificate's

    return update_endpoint


def _may_be(name: str, holder: str, own: str, active: bool) -> bool:
    """Whether the holder of a certificate may say a name to the process `own`."""
    if active:  # this process connects to these two alone
        return name in (SERVER, FQCN.get_parent(own))
    if own != SERVER:
        return bool(FQCN.is_ancestor(own, name))
    # FLARE compares no administrator's name. Only in their certificates the name has an '@'.
    return "@" in holder or not is_valid_admin_client_name(name)


def _taking_messages_of_their_sender(inner: Any) -> Any:
    def process_message(
        cell: CoreCell, endpoint: Any, connection: Any, app_id: int, message: Message
    ) -> None:
        own = cell.my_info.fqcn
        if endpoint.name == own or _is_of(endpoint.name, message, own):
            inner(cell, endpoint, connection, app_id, message)
        else:
            origin = message.get_header(MessageHeaderKey.ORIGIN)
            log.warning("a message by %s of %.100a is dropped", endpoint.name, origin)

    return process_message


def _is_of(sender: str, message: Message, own: str) -> bool:
    """Whether the owner of a connection may send a message by it to the process `own`."""
    header = message.get_header
    passes_on = sender in (SERVER, FQCN.get_parent(own))  # others' messages too
    origin = str(header(MessageHeaderKey.ORIGIN))
    if not passes_on and FQCN.split(origin)[0] != FQCN.split(sender)[0]:
        return False
    main = header(MessageHeaderKey.CHANNEL) == CellChannel.SERVER_MAIN
    if own != SERVER or not main or header(MessageHeaderKey.TOPIC) not in UNREGISTERED:
        return True
    asks = header(MessageHeaderKey.MSG_TYPE) == MessageType.REQ
    return asks and header(MessageHeaderKey.DESTINATION) == SERVER
