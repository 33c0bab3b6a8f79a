// Package bytejson is JSON whose strings are bytes: paths, arguments and environments of Linux are no text, and encoding/json
// replaces what is not UTF-8 in them. Each byte of a string is the character of the same number (ISO 8859-1), so that ASCII
// looks the same. Map keys and values that marshal themselves are left as they are.
package bytejson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// Marshal is json.Marshal with strings of bytes. It leaves v as it is.
func Marshal(v any) ([]byte, error) {
	if v == nil {
		return json.Marshal(v)
	}
	c := converter{encode}
	converted, err := c.value(reflect.ValueOf(v))
	if err != nil {
		return nil, err
	}
	return json.Marshal(converted.Interface())
}

// Unmarshal is json.Unmarshal with strings of bytes. A string with a character of more than a byte is an error.
func Unmarshal(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	target := reflect.ValueOf(v) // a pointer that is not nil, or json.Unmarshal had failed
	c := converter{decode}
	converted, err := c.value(target.Elem())
	if err != nil {
		return err
	}
	target.Elem().Set(converted)
	return nil
}

func encode(s string) (string, error) {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes), nil
}

func decode(s string) (string, error) {
	bytes := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return "", fmt.Errorf("character %#U in a string of bytes", r)
		}
		bytes = append(bytes, byte(r))
	}
	return string(bytes), nil
}

// converter converts all strings of a value.
type converter struct {
	text func(string) (string, error)
}

// value returns a value with converted strings, which shares with v what has none.
func (c converter) value(v reflect.Value) (reflect.Value, error) {
	if marshalsItself(v.Type()) {
		return v, nil
	}
	switch v.Kind() {
	case reflect.String:
		return c.str(v)
	case reflect.Pointer, reflect.Interface:
		return c.pointer(v)
	case reflect.Struct:
		return c.structure(v)
	case reflect.Slice:
		if v.IsNil() {
			return v, nil
		}
		return c.elements(v, reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
	case reflect.Array:
		return c.elements(v, reflect.New(v.Type()).Elem())
	case reflect.Map:
		return c.mapped(v)
	}
	return v, nil
}

// marshalsItself reports whether encoding/json leaves it to the type how its values look.
func marshalsItself(t reflect.Type) bool {
	for _, i := range []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()} {
		if t.Implements(i) || t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}

func (c converter) str(v reflect.Value) (reflect.Value, error) {
	s := v.String()
	if ascii(s) {
		return v, nil
	}
	text, err := c.text(s)
	if err != nil {
		return v, err
	}
	converted := reflect.New(v.Type()).Elem()
	converted.SetString(text)
	return converted, nil
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func (c converter) pointer(v reflect.Value) (reflect.Value, error) {
	if v.IsNil() {
		return v, nil
	}
	inner, err := c.value(v.Elem())
	if err != nil {
		return v, err
	}
	converted := reflect.New(v.Type()).Elem()
	if v.Kind() == reflect.Interface {
		converted.Set(inner)
		return converted, nil
	}
	converted.Set(reflect.New(inner.Type()))
	converted.Elem().Set(inner)
	return converted, nil
}

func (c converter) structure(v reflect.Value) (reflect.Value, error) {
	converted := reflect.New(v.Type()).Elem()
	converted.Set(v)
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() || field.Tag.Get("json") == "-" {
			continue
		}
		inner, err := c.value(v.Field(i))
		if err != nil {
			return v, fmt.Errorf("%s: %w", field.Name, err)
		}
		converted.Field(i).Set(inner)
	}
	return converted, nil
}

func (c converter) elements(v, converted reflect.Value) (reflect.Value, error) {
	for i := range v.Len() {
		inner, err := c.value(v.Index(i))
		if err != nil {
			return v, err
		}
		converted.Index(i).Set(inner)
	}
	return converted, nil
}

func (c converter) mapped(v reflect.Value) (reflect.Value, error) {
	if v.IsNil() {
		return v, nil
	}
	converted := reflect.MakeMapWithSize(v.Type(), v.Len())
	for key, value := range v.Seq2() {
		inner, err := c.value(value)
		if err != nil {
			return v, err
		}
		converted.SetMapIndex(key, inner)
	}
	return converted, nil
}
