package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Prefix is the beginning of every variable of the environment that is a setting: UNDERSTUDY_ and the path in capital
// letters, with _ for dots and brackets (UNDERSTUDY_TENANTS_0_UPSTREAM_URL). A list of plain values has commas.
const Prefix = "UNDERSTUDY_"

// Variables that begin with Prefix and are no setting.
var notSettings = []string{"UNDERSTUDY_CONFIG", "UNDERSTUDY_PARTS"}

// Environment puts what the environment (as [os.Environ] returns it) says over c. It returns the names of variables that
// begin with Prefix and mean nothing, which are likely mistyped.
func (c *Config) Environment(environ []string, s *Source) (unknown []string, err error) {
	set := map[string]string{}
	for _, e := range environ {
		k, v, ok := strings.Cut(e, "=")
		if ok && strings.HasPrefix(k, Prefix) && !slices.Contains(notSettings, k) {
			set[k] = v
		}
	}
	s.env = map[string]string{}
	e := &environment{set: set, used: map[string]bool{}, s: s}
	e.value(reflect.ValueOf(c).Elem(), "", strings.TrimSuffix(Prefix, "_"))
	for k := range set {
		if !e.used[k] {
			unknown = append(unknown, k)
		}
	}
	slices.Sort(unknown)
	return unknown, e.err
}

type environment struct {
	set  map[string]string
	used map[string]bool
	s    *Source
	err  error
}

func (e *environment) value(v reflect.Value, path, name string) {
	switch {
	case e.err != nil:
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			key := v.Type().Field(i).Tag.Get("yaml")
			e.value(v.Field(i), join(path, key), name+"_"+strings.ToUpper(key))
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := 0; ; i++ {
			at, pre := fmt.Sprintf("%s[%d]", path, i), name+"_"+strconv.Itoa(i)
			if i >= v.Len() {
				if !e.begins(pre + "_") {
					return
				}
				v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			}
			e.value(v.Index(i), at, pre)
		}
	default:
		text, ok := e.set[name]
		if !ok {
			return
		}
		e.used[name], e.s.env[path] = true, name
		var err error
		switch v.Kind() {
		case reflect.Slice:
			err = setList(v, text)
		case reflect.Pointer:
			p := reflect.New(v.Type().Elem())
			err = setText(p.Elem(), text)
			v.Set(p)
		default:
			err = setText(v, text)
		}
		if err != nil {
			e.err = e.s.problem(path, "%s", err)
		}
	}
}

func (e *environment) begins(prefix string) bool {
	for k := range e.set {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	return false
}
