package admin

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// labels of the gateway's counters, behind their names. Their values are names of configuration and codes of this
// program: bounded.
func labels(name string) (names []string, help string) {
	switch name {
	case "learned":
		return []string{"tenant", "flow"}, "Approved exchanges that were learned."
	case "unlearned":
		return []string{"tenant", "reason"}, "Approved exchanges that were not learned."
	case "answered":
		return []string{"tenant", "flow", "trigger"}, "Requests that the backup answered."
	case "refused":
		return []string{"tenant", "flow", "code"}, "Requests that the backup refused."
	case "demanded":
		return []string{"tenant", "flow"}, "Requests that are to come again with a nonce in their DPoP proof."
	case "primary_failures":
		return []string{"tenant", "endpoint", "rule"}, "Unexpected failures of the primary, by the line of the failure table."
	case "failed":
		return []string{"tenant", "endpoint"}, "Requests that nobody answered."
	case "ambiguous":
		return []string{"tenant"}, "Exchanges whose reply is lost: the primary may have rotated the token."
	case "late":
		return []string{"tenant"}, "Replies that came late and are kept for the client."
	case "owed":
		return []string{"tenant", "result"}, "Logouts and revocations that the primary had yet to hear of, by what became of them."
	case "notified":
		return []string{"tenant", "result"}, "Relying parties of sessions that were ended here: those that are told, and those that are not."
	case "shadow":
		return []string{"tenant", "flow", "result"}, "Exercises of the backup beside the primary."
	case "shadow_differences":
		return []string{"tenant", "flow", "claim"}, "Differences between the backup's answer and the primary's."
	}
	return nil, ""
}

// maxSeries bounds the series of one metric, whatever the labels are.
const maxSeries = 5000

// metrics reads everything at the time of the question.
type metrics struct{ s *Server }

func (s *Server) newMetrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &metrics{s})
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// Describe sends nothing: which series there are depends on the tenants.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	sent := map[string]int{}
	send := func(t prometheus.ValueType, name, help string, v float64, kv ...string) {
		if sent[name]++; sent[name] > maxSeries {
			return
		}
		var ks, vs []string
		for i := 0; i+1 < len(kv); i += 2 {
			ks, vs = append(ks, kv[i]), append(vs, kv[i+1])
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("understudy_"+name, help, ks, nil), t, v, vs...)
	}
	gauge := func(name, help string, v float64, kv ...string) { send(prometheus.GaugeValue, name, help, v, kv...) }
	count := func(name, help string, v float64, kv ...string) { send(prometheus.CounterValue, name, help, v, kv...) }

	p := &m.s.p
	st := m.s.Status()
	gauge("info", "The program.", 1, "version", p.Version, "role", p.Role)
	gauge("start_time_seconds", "When the process started, in Unix time.", unix(p.Started))
	for _, x := range st.Problems {
		gauge("problem", "Something that an operator must mend; understudy status says what.", 1, "code", x.Code)
	}
	gauge("problems", "How many things an operator must mend.", float64(len(st.Problems)))
	gauge("client_connections", "Open connections of clients.", float64(st.Connections))
	count("client_connections_shed_total", "Idle connections that were closed because there were too many.", float64(st.Shed))
	if st.Keys != nil {
		for _, k := range st.Keys.Keys {
			kv := []string{"tenant", k.Tenant, "issuer", k.Issuer, "kid", k.ID, "alg", k.Alg, "class", k.Class, "state", string(k.State)}
			gauge("key_published_time_seconds", "Since when a backup key has been in the published set, in Unix time.", unix(k.Published), kv...)
			if !k.NotAfter.IsZero() {
				gauge("key_not_after_time_seconds", "Until when a backup key may sign, in Unix time.", unix(k.NotAfter), kv...)
			}
		}
	}
	if p.Gateway == nil {
		return
	}
	gauge("learn_queue", "Approved exchanges that wait to be learned.", float64(st.Waiting))
	gauge("learn_queue_most", "How many may wait.", float64(st.MostWaiting))
	for name, cs := range group(p.Counts()) {
		names, help := labels(name)
		for _, c := range cs {
			var kv []string
			for i, v := range c.Labels {
				k := "label" + strconv.Itoa(i)
				if i < len(names) {
					k = names[i]
				}
				kv = append(kv, k, v)
			}
			count(name+"_total", help, float64(c.N), kv...)
		}
	}
	for _, t := range st.Tenants {
		for class, e := range t.Endpoints {
			kv := []string{"tenant", t.Name, "endpoint", class}
			for _, mode := range []string{"normal", "outage", "returning"} {
				gauge("mode", "Who answers: 1 for the mode in force.", truth(e.Mode == mode), append(kv[:len(kv):len(kv)], "mode", mode)...)
			}
			gauge("primary_share_percent", "Share of sessions that the primary gets.", float64(e.Share), kv...)
			count("breaker_opens_total", "How often the primary was given up.", float64(e.Opens), kv...)
			gauge("deadline_seconds", "Wait for the primary's first byte where the backup could answer.", float64(e.DeadlineMS)/1000, kv...)
			gauge("failing_grants", "Distinct grants that failed since the last answer.", float64(e.Failing), kv...)
			gauge("alarm", "1: an operator must look; understudy status says at what.", truth(e.Alarm != ""), kv...)
			if !e.LastServed.IsZero() {
				gauge("primary_last_served_time_seconds", "When the primary was last seen serving, in Unix time.", unix(e.LastServed), kv...)
			}
		}
		for _, is := range t.Issuers {
			kv := []string{"tenant", t.Name, "issuer", is.Issuer}
			gauge("metadata_age_seconds", "Since when metadata and keys were not found good.", st.Now.Sub(is.Fetched).Seconds(), kv...)
			gauge("keys_mergeable", "0: the backup's keys cannot be published beside the primary's.", truth(is.Problem == ""), kv...)
			gauge("keys_held", "Keys that the primary no longer publishes and still signs with.", float64(len(is.Held)), kv...)
		}
		if t.Coverage != nil {
			covered(t.Name, t.Coverage, gauge)
		}
		if r := t.Records; r != nil && r.Problem == "" {
			gauge("records", "Remembered sign-ins, as last counted.", float64(r.Records), "tenant", t.Name)
			for kind, n := range r.Doors {
				gauge("artifacts", "Known artifacts, as last counted.", float64(n), "tenant", t.Name, "kind", kind)
				gauge("artifacts_servable", "Artifacts for which the backup could answer, as last counted.", float64(r.Servable[kind]), "tenant", t.Name, "kind", kind)
			}
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
