//! Jinja templates, using minijinja plus Hugging Face's extensions to the language.

use super::message::Message;
use kinglet_core::error::{Error, Result};
use minijinja::{Environment, ErrorKind, context};

const NAME: &str = "chat_template";

/// A compiled template.
pub(super) struct Jinja {
    environment: Environment<'static>,
}

impl Jinja {
    /// Compiles a template.
    pub(super) fn new(source: &str) -> Result<Jinja> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        // Prompts are not HTML, so do not escape.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        // A template is a program: limit its steps, so that one that does not terminate is stopped.
        environment.set_fuel(Some(1_000_000));
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| bad(&error))?;
        Ok(Jinja { environment })
    }

    /// Renders messages as text.
    pub(super) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        end_of_text: &str,
    ) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(|error| bad(&error))?;
        let variables = context! { messages, add_generation_prompt, end_of_text, eos_token => end_of_text };
        template.render(variables).map_err(|error| bad(&error))
    }
}

fn bad(error: &minijinja::Error) -> Error {
    Error::BadConfig(format!("chat_template: {error}"))
}
