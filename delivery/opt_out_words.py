"""The words by which a contact stops and restarts a sender, as Twilio reads them.

https://help.twilio.com/articles/223134027-Twilio-support-for-opt-out-keywords-SMS-STOP-filtering-
A word counts only when it is the whole message.
"""

from typing import Final

STOP: Final = frozenset({"stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout"})
START: Final = frozenset({"start", "unstop", "yes"})


def opted_out(content: str, opt_out_type: str | None) -> bool | None:
    """True to opt out, False to opt in again, None when the message says neither.

    `opt_out_type` is Twilio's OptOutType, which an agency's own keywords set (STOP, START or HELP); it goes first.
    """
    word = (opt_out_type or content).strip().casefold()
    if word in STOP:
        return True
    if word in START:
        return False
    return None
