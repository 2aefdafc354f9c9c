//! A server with OpenAI's interface.

#![allow(dead_code)]

mod answer;
