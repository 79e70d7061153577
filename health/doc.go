// Package health says whether the primary serves: a breaker for each tenant and class of endpoints, probes that watch
// for its death and its return, a deadline that follows its own pace, and a ramp back.
//
// It decides from what it is told and from its own probe. It refuses to let one requester's doing count as the
// primary's failure (design, law 1). It is a leaf: it imports no other package of this module.
//
// # The states
//
//	          a probe fails; or failures or silence of
//	          ≥ Grants grants of ≥ Requesters requesters;
//	          or ≥ Grants grants fail beyond doubt
//	closed ────────────────────────────────────────────▶ open ◀──────────────┐
//	  ▲                                                   │  ▲               │
//	  │                                   one good probe, │  │ a bad         │
//	  │                                   not before Hold │  │ probe         │ the same as
//	  │                                                   ▼  │               │ from closed
//	  │                                                half-open             │
//	  │                                                   │                  │
//	  │                                                   │ GoodProbes       │
//	  │                                                   ▼ in a row         │
//	  └───────── full share ────── ramp 10, 25, 50 % ────────────────────────┤
//	                                 │  ▲                                    │
//	          enough of the          │  │ Resume, or no refusal              │
//	          returning are refused  ▼  │ for HaltWindow                     │
//	                               halted ───────────────────────────────────┘
//
// closed: all sessions go to the primary. open, half-open: none does, and probes come every ProbeAway. ramp: those whose
// hash lies below the share do. halted: as ramp, and the share stays.
//
// # What opens it
//
//   - A failing probe, unless somebody's request was answered while it ran: then the primary serves and the probe is
//     at fault; State says so.
//   - Failures that could be a requester's doing, and requests that wait for five times what half of the answers took while
//     nobody is answered, of at least Grants distinct grants
//     and Requesters distinct requesters, with no answer to anybody in between and none older than Window. A requester is an
//     IPv4 address or an IPv6 /48, because a single client can choose among the addresses of its network, and because a
//     client with both has two. Where only the number of requesters is missing, the probe is asked at once and decides.
//   - Failures beyond doubt (refused, DNS, TLS) of Grants distinct grants, whoever sent them: no requester can cause one.
//     The first asks the probe at once instead of opening. That costs nobody anything, because each such request is
//     answered by the backup anyway and the probe is refused in the same millisecond; and one dead backend behind the
//     primary's own balancer does not take a whole tenant away from it.
//
// # When the outage began
//
// At the first failure of the row that opened the breaker. The last success lies before it, and would be more
// generous: what ended between the two had ended while the primary may still have served. Until full share is back, it is
// one outage. After a restart into an outage it is what LastServed said before, as long as the process itself was not
// away for longer than MaxAbsence.
package health
