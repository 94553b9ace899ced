"""The part of scripts/syn-check that runs within the network namespace: the name server that lies, the receiver that has
every address, the sniffer that counts, and the cases."""

import collections
import http.client
import ipaddress
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

WORK, SOCKET_DIR = os.environ["WORK"], os.environ["SOCKET_DIR"]
KEY = "syn-check-key-of-sufficient-length-0123456789"
PUBLIC, PUBLIC6 = "93.184.216.34", "2606:2800:220:1::1"
DATABASE = ("45.33.32.10", 5432)
API = ("127.9.9.9", 8080)  # nobody but this script dials it there
ALLOWED = {(PUBLIC, 443), (PUBLIC6, 443), DATABASE, API}


# --- The name server: each name has a list of answers; the n-th look-up gets the n-th, then the last again. Their life is 0.
zone, asked = {"db.syn.example": [["45.33.32.10"]], "crm.syn.example": [[PUBLIC]]}, collections.Counter()


def name_server():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.53", 53))
    while True:
        query, client = server.recvfrom(4096)
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
        name, question = ".".join(labels).lower(), query[12 : at + 5]
        answers = zone.get(name)
        found = []
        if answers:
            asked[name] += kind == 1
            turn = min(max(asked[name] - 1, 0), len(answers) - 1)
            family = {1: 4, 28: 6}.get(kind)
            found = [a for a in map(ipaddress.ip_address, answers[turn]) if a.version == family]
        head = query[:2] + struct.pack(">HHHHH", 0x8180 if answers else 0x8183, 1, len(found), 0, 0)
        records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(a.packed)) + a.packed for a in found)
        server.sendto(head + question + records, client)


# --- The receiver: TLS on port 443 of every address there is. /redirect/STATUS/N redirects to the N-th goal.
goals, received = [], collections.Counter()


def receiver(family, any_address):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{WORK}/cert.pem", f"{WORK}/key.pem")
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((any_address, 443))
    server.listen(512)

    def answer(raw):
        received[raw.getsockname()[0]] += 1
        try:
            with context.wrap_socket(raw, server_side=True) as stream:
                read = b""
                while b"\r\n\r\n" not in read:
                    read += stream.recv(65536)
                path, head = read.split(b" ", 2)[1].decode(), "HTTP/1.1 204 No Content"
                if path.startswith("/redirect/"):
                    status, goal = path.split("/")[2:4]
                    head = f"HTTP/1.1 {status} Elsewhere\r\nlocation: {goals[int(goal)]}\r\ncontent-length: 0"
                stream.sendall(f"{head}\r\nconnection: close\r\n\r\n".encode())
        except (OSError, IndexError):
            pass

    while True:
        threading.Thread(target=answer, args=[server.accept()[0]], daemon=True).start()


def database():
    """Carries what comes to port 5432 of any address to Postgres' socket."""
    server = socket.create_server(("0.0.0.0", 5432))

    def carry(source, goal):
        try:
            while data := source.recv(65536):
                goal.sendall(data)
        except OSError:
            pass
        for end in (source, goal):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    while True:
        client = server.accept()[0]
        postgres = socket.socket(socket.AF_UNIX)
        postgres.connect(f"{SOCKET_DIR}/.s.PGSQL.5432")
        for pair in ((client, postgres), (postgres, client)):
            threading.Thread(target=carry, args=pair, daemon=True).start()


# --- The sniffer: every packet that this namespace sends, whatever the interface.
syns, others = collections.Counter(), collections.Counter()
sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sniffer.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE


def sniff():
    while True:
        packet, (_, _, direction, _, _) = sniffer.recvfrom(128)
        if direction != 4:  # PACKET_OUTGOING
            continue
        if packet[0] >> 4 == 4:
            protocol, goal, body = packet[9], packet[16:20], packet[(packet[0] & 15) * 4 :]
        else:
            protocol, goal, body = packet[6], packet[24:40], packet[40:]
        goal = str(ipaddress.ip_address(goal))
        if protocol == 6 and len(body) > 13 and body[13] & 0x12 == 2:
            syns[goal, struct.unpack(">H", body[2:4])[0]] += 1
        elif protocol == 17 and goal not in ("127.0.0.53", "127.0.0.1"):
            others[goal, struct.unpack(">H", body[2:4])[0]] += 1


# --- The bridge and its API.
def start_bridge():
    variables = {
        "PATH": os.environ["PATH"], "SSL_CERT_FILE": f"{WORK}/ca.pem", "BRIDGE_LOG": "info", "BRIDGE_API_KEY": KEY,
        "DATABASE_URL": "postgres://postgres@db.syn.example:5432/postgres?sslmode=disable",
        "BRIDGE_ALLOW_PLAIN_DATABASE": "true", "BRIDGE_LISTEN": "0.0.0.0:8080",
        "BRIDGE_MASTER_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    }
    log = open(f"{WORK}/bridge.log", "w")
    bridge = subprocess.Popen([os.environ["PROGRAM"], "serve"], env=variables, stdout=log, stderr=log)
    for _ in range(600):
        try:
            if call("GET", "/healthz")[0] == 200:
                return bridge
        except OSError:
            time.sleep(0.1)
    sys.exit("the bridge does not answer:\n" + open(log.name).read())


def call(method, path, body=None):
    while True:
        api = http.client.HTTPConnection(*API, timeout=20)
        headers = {"authorization": f"Bearer {KEY}"}
        if body is not None:
            headers["content-type"] = "application/json"
        api.request(method, path, body and json.dumps(body), headers)
        answer = api.getresponse()
        text = answer.read()
        api.close()
        if answer.status != 429:
            return answer.status, text
        time.sleep(float(answer.headers.get("retry-after", "1")))


def sql(text):
    command = [os.environ["PSQL"], "-h", SOCKET_DIR, "-U", "postgres", "-XAtq", "-F", "\t", "-c", text, "postgres"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


wrong = []


def register(case, body):
    status, text = call("POST", "/v1/webhooks", {"retry_schedule_seconds": [], "timeout_ms": 4000, **body})
    if status != 201:
        sys.exit(f"{case}: {status} {text.decode()}")
    return json.loads(text)["id"]


def is_refused(case, url):
    status, text = call("POST", "/v1/webhooks", {"url": url})
    if status != 422:
        wrong.append(f"{case}: answered {status}, not 422")


def attempts(expected, deadline=180):
    """Waits until so many attempts are written down; gives the outcomes of each webhook in order."""
    found, by = {}, time.time() + deadline
    while time.time() < by:
        found = collections.defaultdict(list)
        for line in sql(
            "select webhook_id, outcome from audit_log where kind = 'DELIVERY_ATTEMPT' order by audit_id"
        ).splitlines():
            webhook, outcome = line.split("\t")
            found[webhook].append(outcome)
        if sum(map(len, found.values())) >= expected:
            return found
        time.sleep(0.3)
    sys.exit(f"only {sum(map(len, found.values()))} of {expected} attempts; log:\n" + open(f"{WORK}/bridge.log").read())


def main():
    for target, arguments in ((name_server, ()), (database, ()), (sniff, ()), (receiver, (socket.AF_INET, "0.0.0.0")),
                              (receiver, (socket.AF_INET6, "::"))):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    time.sleep(0.3)

    # The counter is proven on addresses that it must catch.
    for address in ("10.0.0.1", "169.254.169.254", "fd00::1"):
        socket.create_connection((address, 443), 2).close()
        time.sleep(0.1)
        if syns[address, 443] != 1:
            sys.exit(f"the counter did not see a SYN to {address}: {dict(syns)}")
    syns.clear()
    received.clear()

    rows = [line.split(" ", 1) for line in open(sys.argv[1], encoding="utf-8").read().splitlines()
            if line and not line.startswith("#")]
    bad = [value for kind, value in rows if kind == "address"]
    urls = [value for kind, value in rows if kind == "url"]
    bridge = start_bridge()
    tried, expected, again = collections.Counter(), {}, []

    def name_of(case, *answers):
        name = f"{case}-{len(zone)}.syn.example"
        zone[name] = list(answers)
        return f"https://{name}/hook"

    def expect(kind, case, outcomes, body):
        webhook = register(case, body)
        tried[kind] += 1
        expected[webhook] = (case, outcomes)
        return webhook

    for url in urls:
        is_refused(url, url)
        tried["spelling at registration"] += 1
    for n, address in enumerate(bad):
        literal = f"https://[{address}]/hook" if ":" in address else f"https://{address}/hook"
        is_refused(literal, literal)
        tried["address at registration"] += 1
        changed = expect("address in a changed row", literal, ["target_refused"], {"url": "https://crm.syn.example/"})
        sql(f"update webhook set url = '{literal}', version = version + 1 where webhook_id = '{changed}'")
        public = PUBLIC6 if ":" in address else PUBLIC
        for kind, answer in (("alone", [address]), ("first", [address, public]), ("last", [public, address])):
            expect(f"name, {kind}", f"{kind} {address}", ["target_refused"], {"url": name_of(kind, answer)})
        url = name_of("rebinding", [public], [address])
        again.append(expect("name that changes its mind", f"rebinding {address}", ["ok", "target_refused"], {"url": url}))
        goals.append(literal)
        status = (301, 302, 303, 307, 308)[n % 5]
        redirect = {"url": f"https://crm.syn.example/redirect/{status}/{n}"}
        expect("redirect", f"redirect {status} to {address}", ["http_3xx"], redirect)
        if n % 4 == 0:
            auth = {"kind": "oauth2", "client_id": "x", "client_secret": "x", "token_url": name_of("token", [address])}
            expect("token address", f"token {address}", ["token"], {"url": "https://crm.syn.example/", "auth": auth})
        if n % 4 == 1:
            # Asked at once whether it wants the POSTs, and gets none before it has said so.
            register(address, {"url": name_of("handshake", [address]), "verification": "echo"})
            tried["verification"] += 1
    for webhook in expected:
        status, text = call("POST", f"/v1/webhooks/{webhook}/test")
        if status not in (200, 201, 202):
            sys.exit(f"test ping: {status} {text.decode()}")
    attempts(len(expected))
    for webhook in again:
        call("POST", f"/v1/webhooks/{webhook}/test")
    found = attempts(len(expected) + len(again))
    probed = int(sql("select count(distinct webhook_id) from audit_log where kind = 'WEBHOOK_PROBED'"))
    if probed < tried["verification"]:
        wrong.append(f"only {probed} of {tried['verification']} receivers were asked for verification")
    for webhook, (case, outcomes) in expected.items():
        if found[webhook] != outcomes:
            wrong.append(f"{case}: {found[webhook]}, not {outcomes}")
    bridge.terminate()
    bridge.wait(20)
    time.sleep(0.3)

    forbidden = {goal: count for goal, count in syns.items() if goal not in ALLOWED}
    reached = {address: count for address, count in received.items() if address not in (PUBLIC, PUBLIC6)}
    seen, dropped = struct.unpack("II", sniffer.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
    for kind, count in sorted(tried.items()):
        print(f"{count:6} {kind}")
    print(f"{sum(tried.values()):6} cases; {sum(map(len, found.values()))} attempts, {probed} handshakes")
    print(f"{syns[PUBLIC, 443] + syns[PUBLIC6, 443]:6} SYNs to the two public addresses, which are allowed")
    print(f"{sum(forbidden.values()):6} SYNs to forbidden ones {forbidden or ''}, {sum(others.values())} other packets "
          f"{dict(others) or ''}, {sum(reached.values())} connections {reached or ''}")
    print(f"{seen:6} packets seen by the counter, {dropped} missed")
    for line in wrong:
        print("WRONG:", line)
    failed = wrong or forbidden or others or reached or dropped or not syns[PUBLIC, 443] or not syns[PUBLIC6, 443]
    sys.exit(1 if failed else 0)


main()
