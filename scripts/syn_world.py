"""What scripts/syn_check.py tries the bridge in, within the network namespace: the name server that lies, the receiver and the
platform that have every address, the proxy, the sniffer that counts, and the bridge itself."""

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
PROXY = ("45.33.32.30", 3128)


# --- The name server: each name has a list of answers; the n-th look-up gets the n-th, then the last again. Their life is 0.
zone, asked = {}, collections.Counter()
zone["db.syn.example"], zone["proxy.syn.example"] = [[DATABASE[0]]], [[PROXY[0]]]
zone["crm.syn.example"] = zone["login.syn.example"] = [[PUBLIC]]


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


# --- The receiver: TLS on port 443 of every address there is. /redirect/STATUS/N redirects to the N-th goal. It plays Genesys'
# two protocols and a token endpoint as well: for a host in `sockets` a connection may be made, whose socket is where that says.
# With the last answer before the socket is opened, `turns` points the host's name to other addresses.
goals, received, sockets, turns = [], collections.Counter(), {}, {}
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(f"{WORK}/cert.pem", f"{WORK}/key.pem")


def reply_to(method, path, host):
    """Status, further header lines and body of an answer."""
    if path.startswith("/redirect/"):
        status, goal = path.split("/")[2:4]
        return f"{status} Elsewhere", f"location: {goals[int(goal)]}\r\n", ""
    if path.endswith("/oauth/token"):
        return "200 OK", "", '{"access_token": "t", "token_type": "bearer", "expires_in": 86400}'
    if host in turns and path.endswith(("/realtime/connections", "/subscriptions")):
        zone[host] = [turns[host]]
    if path.startswith("/api/v2/") and method == "POST" and path.endswith(("/connections", "/channels")):
        names = ("id", "connectUri") if path.endswith("/channels") else ("connectionId", "wsUrl")
        return "200 OK", "", json.dumps(dict(zip(names, ("c", sockets[host]))))
    if path.startswith("/api/v2/"):
        return "200 OK", "", '{"id": "me", "entities": [], "OAuthClient": {"id": "me"}, "organization": {"id": "o"}}'
    return "204 No Content", "", ""


def answer(raw, address):
    received[address] += 1
    try:
        with tls.wrap_socket(raw, server_side=True) as stream:
            read = b""
            while b"\r\n\r\n" not in read:
                read += stream.recv(65536)
            head, body = read.split(b"\r\n\r\n", 1)
            method, path = head.decode().split(" ")[:2]
            headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
            while len(body) < int(headers.get("content-length", "0")):
                body += stream.recv(65536)
            status, lines, text = reply_to(method, path, headers.get("host", ""))
            length = "" if status.startswith("204") else f"content-length: {len(text)}\r\n"
            stream.sendall(f"HTTP/1.1 {status}\r\n{lines}{length}connection: close\r\n\r\n{text}".encode())
    except (OSError, ValueError, KeyError):
        pass


def listening(family, address):
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(address)
    server.listen(512)
    return server


def receiver(family, any_address):
    server = listening(family, (any_address, 443))
    while True:
        raw = server.accept()[0]
        threading.Thread(target=answer, args=[raw, raw.getsockname()[0]], daemon=True).start()


# --- The proxy. It records its CONNECT targets, dials nobody, and is the receiver itself.
connects = collections.Counter()


def proxy():
    server = listening(socket.AF_INET, PROXY)

    def tunnel(raw):
        read = b""
        while not read.endswith(b"\r\n\r\n"):
            byte = raw.recv(1)
            if not byte:
                return
            read += byte
        method, goal = read.decode().split(" ")[:2]
        host, _, port = goal.rpartition(":")
        connects[method, host.strip("[]"), int(port)] += 1
        raw.sendall(b"HTTP/1.1 200 Yes\r\n\r\n")
        answer(raw, host.strip("[]"))

    while True:
        threading.Thread(target=tunnel, args=[server.accept()[0]], daemon=True).start()


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


def start_world():
    for target, arguments in ((name_server, ()), (database, ()), (sniff, ()), (proxy, ()),
                              (receiver, (socket.AF_INET, "0.0.0.0")), (receiver, (socket.AF_INET6, "::"))):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    time.sleep(0.3)
    # The counter is proven on addresses that it must catch.
    for address in ("10.0.0.1", "169.254.169.254", "fd00::1"):
        socket.create_connection((address, 443), 2).close()
        time.sleep(0.1)
        if syns[address, 443] != 1:
            sys.exit(f"the counter did not see a SYN to {address}: {dict(syns)}")


# --- The bridge and its API.
class Bridge:
    """One with a database of its own."""

    def __init__(self, name, more=None):
        self.name, self.log = name, f"{WORK}/{name}.log"
        psql("postgres", f"create database {name}")
        variables = {
            "PATH": os.environ["PATH"], "SSL_CERT_FILE": f"{WORK}/ca.pem", "BRIDGE_LOG": "info", "BRIDGE_API_KEY": KEY,
            "DATABASE_URL": f"postgres://postgres@db.syn.example:5432/{name}?sslmode=disable",
            "BRIDGE_ALLOW_PLAIN_DATABASE": "true", "BRIDGE_LISTEN": "0.0.0.0:8080",
            "BRIDGE_MASTER_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", **(more or {}),
        }
        # The bridge must ignore them.
        for kind in ("HTTP", "HTTPS", "ALL"):
            variables[f"{kind}_PROXY"] = variables[f"{kind.lower()}_proxy"] = "http://10.0.0.1:3128"
        for counter in (syns, others, received, connects):
            counter.clear()
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([os.environ["PROGRAM"], "serve"], env=variables, stdout=log, stderr=log)
        for _ in range(600):
            try:
                if self.call("GET", "/healthz")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        self.give_up("the bridge does not answer")

    def give_up(self, why):
        self.process.kill()
        with open(self.log, encoding="utf-8") as log:
            sys.exit(f"{self.name}: {why}; the end of its log:\n{log.read()[-5000:]}")

    def sql(self, text):
        return psql(self.name, text)

    def call(self, method, path, body=None):
        while True:
            api = http.client.HTTPConnection(*API, timeout=20)
            headers = {"authorization": f"Bearer {KEY}"}
            if body is not None:
                headers["content-type"] = "application/json"
            api.request(method, path, body and json.dumps(body), headers)
            reply = api.getresponse()
            text = reply.read()
            api.close()
            if reply.status != 429:
                return reply.status, text
            time.sleep(float(reply.headers.get("retry-after", "1")))

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        time.sleep(0.3)


def psql(name, text):
    command = [os.environ["PSQL"], "-h", SOCKET_DIR, "-U", "postgres", "-XAtq", "-F", "\t", "-c", text, name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
