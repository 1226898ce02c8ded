"""Block key to bytes on other machines: the cache group. Knows no cache, metadata or objects.

What a member lends, and who the members are, arrive as callables.

ring        which member owns a block: pure code
wire        the form of frames: pure code
handshake   how both sides prove that they know the secret
members     what a member says of itself, and lists of addresses
link        one connection of a client
peer        one other member: its connections, whether it is up
group       the group as a client sees it: owners, and who is up
source      what a server lends: the contract
limits      what a server takes at once
loop        the threads of a server
connection  one connection of a server
answers     what a connection answers
channel     the bytes of a connection
server      the member's side
"""
